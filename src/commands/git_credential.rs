//! The hidden command that git requests a user name and a token from.

use crate::cli::CredentialArgs;
use refresh_git::remote;
use refresh_installation::exit::{Error, Success};
use refresh_system::error::Failure;
use refresh_system::screen;

/// Answers the request of git for the user name and the token of a URL.
pub(super) fn answer(args: &CredentialArgs) -> Result<Success, Error> {
    let request = std::io::read_to_string(std::io::stdin())
        .map_err(|error| Error::Bug(format!("the request cannot be read: {error}")))?;
    let [token_file, user, operation] = args.words.as_slice() else {
        return Err(Error::Usage(Failure::new("git-credential takes a file, a user and an operation")));
    };
    let (user, operation) = (user.to_string_lossy(), operation.to_string_lossy());
    let answer =
        remote::answer_credential(&operation, &request, token_file.as_ref(), &user).map_err(Error::Usage)?;
    screen::write(answer.as_bytes());
    Ok(Success::Done)
}
