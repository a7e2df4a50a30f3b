//! Access to the operating system, and the base of every other crate. Imports no other crate of the workspace.
//!
//! It may touch files ([`disk`]), clocks ([`clock`]), signals of this process ([`interrupt`]), its environment
//! variables ([`environment`]) and its standard output and error ([`screen`]). It starts no program and opens no
//! connection.

pub mod checkpoint;
pub mod clock;
pub mod disk;
pub mod environment;
pub mod error;
pub mod hint;
pub mod interrupt;
pub mod manifest;
pub mod screen;
pub mod text;
