//! What others write is read without a crash, a hang or a wrong word, however it is damaged: manifests, GGUF headers,
//! Ollama's manifests and files of checksums, changed at random from a corpus of whole ones (`tests/corpus/`).
//!
//! What fails is told with the seed that does it again. `LADYLINUX_REFRESH_LONG` tries a hundred times as much.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read their corpus")]

#[path = "common/dice.rs"]
mod dice;

use std::fs;
use std::io::Cursor;
use std::panic::catch_unwind;
use std::path::{Component, Path};

use dice::Dice;
use ladylinux_refresh::models::gguf::{self, Told};
use ladylinux_refresh::models::manifest::Manifest;
use ladylinux_refresh::models::{Algorithm, Digest, ollama, sums};

/// Numbers that are at the edge of something.
const EDGES: [u64; 9] = [0, 1, 0x7f, 0xff, 0xffff_ffff, 1 << 31, 1 << 60, u64::MAX, u64::MAX - 7];

/// Pieces that mean something in a text.
const PIECES: [&[u8]; 12] =
    [b"{", b"}", b"[", b"\"", b",", b"\\u0000", b"../", b"sha256:", b"null", b"-1", b"\xff\xfe", b"1e999"];

fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn position(dice: &mut Dice, bytes: &[u8]) -> usize {
    usize::try_from(dice.below(bytes.len() as u64)).unwrap()
}

/// Changes a few places of a text or a file.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=dice.below(4) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = position(dice, bytes);
        match dice.below(8) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes.truncate(at),
            2 => {
                let edge = EDGES[position(dice, &[0; EDGES.len()])].to_le_bytes();
                let width = (if dice.below(2) == 0 { 4 } else { 8 }).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            3 => {
                let piece = PIECES[position(dice, &[0; PIECES.len()])];
                bytes.splice(at..at, piece.iter().copied());
            }
            4 => {
                let end = at + position(dice, &bytes[at..]);
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + 1 + position(dice, &bytes[at..])).min(at + 64).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let other = &others[position(dice, &vec![0; others.len()])];
                if !other.is_empty() {
                    let from = position(dice, other);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
            }
            _ => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
        }
    }
}

/// Gives every whole one, and many damaged ones, to `check`.
fn fuzz(kind: &str, rounds: u64, check: fn(&[u8])) {
    let corpus = corpus(kind);
    for whole in &corpus {
        check(whole);
    }
    let mut dice = Dice::from_environment();
    let rounds = if dice::long() { rounds * 100 } else { rounds };
    for round in 0..rounds {
        let mut bytes = corpus[position(&mut dice, &vec![0; corpus.len()])].clone();
        mutate(&mut dice, &mut bytes, &corpus);
        if catch_unwind(|| check(&bytes)).is_err() {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
            panic!("{kind}, round {round}: {shown:?}");
        }
    }
}

fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_))) && path.components().count() > 0
}

fn is_digest(digest: &Digest) -> bool {
    digest.hex.len() == digest.algorithm.digits() && digest.hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn rw_6_2c_a_damaged_manifest_gives_words_or_models_below_the_base() {
    fuzz("manifest", 20_000, |bytes| match Manifest::parse(bytes) {
        Ok(manifest) => {
            assert!(manifest.models.iter().all(|model| is_inside(&model.path)));
            assert!(manifest.models.iter().filter_map(|model| model.digest.as_ref()).all(is_digest));
        }
        Err(why) => assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}"),
    });
}

#[test]
fn rw_6_2b_a_damaged_gguf_header_never_needs_more_than_is_there_and_fits() {
    fuzz("gguf", 20_000, |bytes| {
        let length = bytes.len() as u64;
        match gguf::examine(Cursor::new(bytes), length) {
            Told::Fits { needs } => {
                assert!(needs <= length);
                // Cut anywhere before that, it no longer fits.
                let short = usize::try_from(needs - 1).unwrap();
                let told = gguf::examine(Cursor::new(&bytes[..short]), needs - 1);
                assert!(matches!(told, Told::TooShort { needs: again } if again <= needs), "{told:?}");
            }
            Told::TooShort { needs } => assert!(needs > length),
            Told::Unreadable(why) => panic!("{why}"),
            Told::Interrupted => panic!("nobody interrupted"),
            Told::NotGguf | Told::Unsupported(_) | Told::Broken(_) => {}
        }
    });
}

#[test]
fn rw_6_2b_a_damaged_manifest_of_ollama_gives_words_or_digests() {
    fuzz("ollama", 20_000, |bytes| match ollama::parse(bytes) {
        Ok(blobs) => assert!(blobs.iter().all(|blob| is_digest(&blob.digest))),
        Err(why) => assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}"),
    });
}

#[test]
fn rw_6_2b_a_damaged_file_of_checksums_gives_words_or_digests_of_files_beside_it() {
    fuzz("sums", 20_000, |bytes| {
        let sums = sums::parse(bytes, Algorithm::Sha256);
        assert!(sums.entries.iter().all(|(path, digest)| is_inside(path) && is_digest(digest)));
        assert!(sums.complaints.iter().all(|why| why.starts_with("line ")));
    });
}
