//! Reads a file of settings into its tables. The module touches nothing.

use std::path::Path;

use serde::Deserialize;

use refresh_system::error::{Failure, Outcome};

use super::faults::{self, Fault, Reading};
use super::file::Author;

/// Reads a file into its tables.
///
/// # Errors
/// It is not TOML, has a key that its author may not set, or a value that cannot be used; each with line and column.
pub(super) fn parse<'a, T: Deserialize<'a> + Default>(
    text: &'a str,
    path: &Path,
    author: Author,
) -> Outcome<T> {
    let Reading { value, faults, .. } = faults::read(text, author);
    match faults.into_iter().next() {
        None => Ok(value),
        Some(Fault { line, column, message, .. }) => {
            Err(Failure::new(format!("{}, line {line}, column {column}: {message}", path.display())))
        }
    }
}
