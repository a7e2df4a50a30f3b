//! The Python environment: what a commit asks for, who installs it, and the generations it is built as.
//!
//! An environment is built as a *generation*: a fresh folder below `venvs/`, made at its final path as the owner of
//! the tree, read-only once good, never changed and never moved afterwards. `venv` is a symbolic link to the live
//! one; changing environments is one atomic rename. This room writes below `venvs/`, the link `venv`, and the tool's
//! own stores for tools, caches and records; the application's tree is reached through [`definitions::TreeSource`]
//! only.

pub mod definitions;
pub mod interpreter;
pub mod requirements;
pub mod trouble;
pub mod versions;
