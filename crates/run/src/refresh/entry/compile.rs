//! Compiles one Python source with the environment's own interpreter: an operation, because the source is not trusted.
//! Nothing of it is executed.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use refresh_programs::process::{Program, Runner};
use refresh_system::error::Outcome;

/// The name of the operation.
pub const OPERATION: &str = "compile-source";

/// The time limit of the interpreter.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Reads a source on standard input and prints its problem in one line.
const COMPILE: &str = "\
import sys
try:
    compile(sys.stdin.buffer.read(), sys.argv[1], 'exec', dont_inherit=True)
except BaseException as error:
    line = getattr(error, 'lineno', None)
    text = f'{type(error).__name__}: {getattr(error, \"msg\", None) or error}'
    print(text + (f' (line {line})' if line else ''))
";

/// A source to compile.
#[derive(Debug, Serialize, Deserialize)]
pub struct CompileRequest {
    /// The interpreter.
    pub python: PathBuf,
    /// The name of the source, for messages.
    pub name: String,
    /// The source.
    pub source: Vec<u8>,
}

/// The result.
#[derive(Debug, Serialize, Deserialize)]
pub struct CompileResponse {
    /// The problem that the interpreter finds, in one line; `None` if the source compiles.
    pub problem: Option<String>,
}

/// Compiles the source.
///
/// # Errors
/// The interpreter cannot be started, or exceeds its time limit.
pub fn handle(request: &CompileRequest) -> Outcome<CompileResponse> {
    let runner = Runner::silent();
    let program = Program::new(&request.python)
        .args(["-I", "-S", "-W", "ignore", "-c", COMPILE])
        .arg(&request.name)
        .input(request.source.clone())
        .deadline(DEADLINE);
    let finished = runner.run(&program)?;
    if !finished.succeeded() {
        return Err(
            finished.failure(&format!("the environment's interpreter cannot compile {}", request.name))
        );
    }
    let text = finished.text();
    let problem = text.lines().next().map(str::trim).filter(|line| !line.is_empty());
    Ok(CompileResponse { problem: problem.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(source: &[u8]) -> Option<String> {
        let python = PathBuf::from("/usr/bin/python3");
        handle(&CompileRequest { python, name: "api.py".to_owned(), source: source.to_vec() })
            .unwrap()
            .problem
    }

    #[test]
    fn rw_7_1b_a_source_that_does_not_compile_is_reported_with_its_line_and_not_executed() {
        assert_eq!(problem(b"raise SystemExit('executed')\n"), None);
        assert_eq!(problem(b"# coding: latin-1\nname = '\xe4'\n"), None);
        let message = problem(b"import os\n\ndef broken(:\n    pass\n").unwrap();
        assert!(message.starts_with("SyntaxError: ") && message.ends_with("(line 3)"), "{message}");
        assert!(problem(b"name = '\xe4'\n").unwrap().contains("utf-8"));
        assert!(problem(b"a\0b\n").is_some());
    }
}
