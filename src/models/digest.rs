//! Digests, piece by piece.
//!
//! The crates look for the processor's own instructions for SHA-256, SHA-1 and vectors when they are first used, so the one
//! program is as fast as each machine allows.

use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::{Algorithm, Digest};
use crate::hexadecimal::hexadecimal;

/// A digest that is being computed.
pub(super) struct Hashing {
    algorithm: Algorithm,
    state: State,
}

enum State {
    Sha256(Sha256),
    Sha512(Sha512),
    Blake3(Box<blake3::Hasher>),
    Sha1(Sha1),
}

impl Hashing {
    /// Begins with nothing. `length` is how many bytes will come: git puts it before them.
    pub(super) fn new(algorithm: Algorithm, length: u64) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
            Algorithm::Blake3 => State::Blake3(Box::default()),
            Algorithm::GitBlobSha1 => {
                State::Sha1(Sha1::new_with_prefix(format!("blob {length}\0").as_bytes()))
            }
        };
        Self { algorithm, state }
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
            State::Sha1(state) => state.update(bytes),
        }
    }

    /// Returns the digest of all that came.
    pub(super) fn finish(self) -> Digest {
        let hex = match self.state {
            State::Sha256(state) => hexadecimal(&state.finalize()),
            State::Sha512(state) => hexadecimal(&state.finalize()),
            State::Blake3(state) => hexadecimal(state.finalize().as_bytes()),
            State::Sha1(state) => hexadecimal(&state.finalize()),
        };
        Digest { algorithm: self.algorithm, hex }
    }
}

/// The SHA-256 of a few bytes, in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: Algorithm, pieces: &[&[u8]]) -> String {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut hashing = Hashing::new(algorithm, length);
        for piece in pieces {
            hashing.update(piece);
        }
        let digest = hashing.finish();
        assert_eq!((digest.algorithm, digest.hex.len()), (algorithm, algorithm.digits()));
        digest.hex
    }

    /// The values are those of `sha256sum`, `sha512sum`, `b3sum` and `git hash-object`.
    #[test]
    fn every_algorithm_gives_what_the_usual_program_gives() {
        let expected = [
            (Algorithm::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                Algorithm::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
                 454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (Algorithm::Blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
            (Algorithm::GitBlobSha1, "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"),
        ];
        for (algorithm, hex) in expected {
            assert_eq!(of(algorithm, &[b"abc"]), hex);
            assert_eq!(of(algorithm, &[b"a", b"", b"bc"]), hex);
        }
        assert_eq!(of(Algorithm::GitBlobSha1, &[]), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }
}
