//! The hidden commands: work on files with the rights of their owner, and git's request for credentials.

use std::io::Read as _;

use crate::cli::{AsOwnerArgs, CredentialArgs};
use crate::operations;
use refresh_git::remote;
use refresh_installation::exit::{Error, Success};
use refresh_programs::units;
use refresh_system::error::Failure;
use refresh_system::screen;

/// Performs one operation: a request on standard input, an answer on standard output.
pub(super) fn answer(args: &AsOwnerArgs) -> Result<Success, Error> {
    let request = input()?;
    let answer =
        units::operations::answer(&args.operation, &request, operations::answer).ok_or_else(|| {
            Error::Usage(Failure::new(format!("the operation {:?} does not exist", args.operation)))
        })?;
    screen::write(&answer);
    Ok(Success::Done)
}

/// Answers the request of git for the user name and the token of a URL.
pub(super) fn credential(args: &CredentialArgs) -> Result<Success, Error> {
    let request = String::from_utf8_lossy(&input()?).into_owned();
    let [token_file, user, operation] = args.words.as_slice() else {
        return Err(Error::Usage(Failure::new("git-credential takes a file, a user and an operation")));
    };
    let (user, operation) = (user.to_string_lossy(), operation.to_string_lossy());
    let answer =
        remote::answer_credential(&operation, &request, token_file.as_ref(), &user).map_err(Error::Usage)?;
    screen::write(answer.as_bytes());
    Ok(Success::Done)
}

fn input() -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match std::io::stdin().lock().read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Error::Bug(format!("the request cannot be read: {error}"))),
    }
}
