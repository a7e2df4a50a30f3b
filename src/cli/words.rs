//! Converts the arguments of a command back to words, for a worker and for commands that people type. The declaration
//! of an option is the only source of its name.

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use refresh_system::error::{Context as _, Outcome};

/// Returns a command with its arguments; arguments that are not serialized are left out.
///
/// # Errors
/// A path is not UTF-8.
pub fn of<T: Args + Serialize>(command: &str, arguments: &T) -> Outcome<Vec<String>> {
    let values = serde_json::to_value(arguments).context(|| "an argument is not UTF-8".to_owned())?;
    let (mut words, mut positional) = (vec![command.to_owned()], Vec::new());
    for declared in T::augment_args(clap::Command::new("")).get_arguments() {
        match (&values[declared.get_id().as_str()], declared.get_long()) {
            (Value::Bool(true), Some(option)) => words.push(format!("--{option}")),
            (Value::String(value), Some(option)) => words.push(format!("--{option}={value}")),
            (Value::Number(value), Some(option)) => words.push(format!("--{option}={value}")),
            (Value::Array(values), Some(option)) => {
                words.extend(
                    values.iter().filter_map(Value::as_str).map(|value| format!("--{option}={value}")),
                );
            }
            (Value::String(value), None) => positional.push(value.clone()),
            _ => {}
        }
    }
    words.extend(positional);
    Ok(words)
}
