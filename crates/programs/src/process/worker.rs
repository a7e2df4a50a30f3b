//! Requests and answers of operations that another process of this program does.

use serde::Serialize;
use serde::de::DeserializeOwned;

use refresh_system::error::{Context as _, FailureMessage, Outcome};

/// The answer of an operation.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer<A> {
    /// The work is done.
    Done(A),
    /// The work failed.
    Failed(FailureMessage),
}

impl<A: DeserializeOwned> Answer<A> {
    /// Reads the response of `operation`.
    ///
    /// # Errors
    /// The bytes are not a response, or the operation's own failure.
    pub(crate) fn read(bytes: &[u8], operation: &str) -> Outcome<A> {
        let failed = || format!("the process for {operation} failed");
        match serde_json::from_slice(bytes).context(failed)? {
            Self::Done(value) => Ok(value),
            Self::Failed(message) => Err(message.into_failure()),
        }
    }
}

/// Does the other process's side: reads the request, works, and encodes the answer.
pub fn answer<Q: DeserializeOwned, A: Serialize>(
    request: &[u8],
    work: impl FnOnce(Q) -> Outcome<A>,
) -> Vec<u8> {
    let result =
        serde_json::from_slice(request).context(|| "the request cannot be read".to_owned()).and_then(work);
    let answer = match result {
        Ok(value) => Answer::Done(value),
        Err(failure) => Answer::Failed(failure.message()),
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}
