//! What others write is read without a crash, a hang or a wrong word, however it is damaged: manifests, GGUF headers,
//! Ollama's manifests and files of checksums, changed at random from a corpus of whole ones (`tests/corpus/`), and whole
//! stores that are laid out at random.
//!
//! What fails is told with the seed that does it again. `LADYLINUX_REFRESH_LONG` tries a hundred times as much.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read their corpus")]

#[path = "common/dice.rs"]
mod dice;

use std::collections::HashMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::panic::catch_unwind;
use std::path::{Component, Path, PathBuf};

use dice::Dice;
use ladylinux_refresh::manifest::Scan;
use ladylinux_refresh::models::cache::Cache;
use ladylinux_refresh::models::engine::How;
use ladylinux_refresh::models::gguf::{self, Told};
use ladylinux_refresh::models::manifest::Manifest;
use ladylinux_refresh::models::verify::{Text, Verified, gather, verify};
use ladylinux_refresh::models::{Algorithm, Digest, Finding, ollama, sums};
use ladylinux_refresh::service::envfile::EnvFile;
use ladylinux_refresh::settings::layout::Layout;
use sha2::{Digest as _, Sha256};

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

/// What whole files hold in stores laid out at random.
const CONTENTS: [&[u8]; 2] = [b"weights", b"GGUF"];

/// Where something may lie in a store; `#` stands for a digest.
const PLACES: [&str; 16] = [
    "w",
    "sub/w",
    "sub/x.gguf",
    ".hidden",
    "SHA256SUMS",
    "sub/SHA256SUMS",
    "sub/B3SUMS",
    "o/blobs/sha256-#",
    "o/blobs/sha256:#",
    "o/blobs/sha256-#-partial-1",
    "o/manifests/registry.ollama.ai/library/m/latest",
    "o/manifests/short",
    "models--a/blobs/#",
    "models--a/snapshots/0/w",
    "models--b/snapshots/0/x.gguf",
    "models--b/blobs/#",
];

fn one_of<'a, T>(dice: &mut Dice, all: &'a [T]) -> &'a T {
    &all[position(dice, &vec![0; all.len()])]
}

fn digest(dice: &mut Dice) -> String {
    Sha256::digest(one_of(dice, &CONTENTS)).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A path of one of the two stores, or of neither; sometimes only the beginning of one.
fn place(dice: &mut Dice, root: &Path) -> PathBuf {
    let store = root.join(one_of(dice, &["opt/ladylinux/models", "srv/o", "srv/o", "outside"]));
    let name = one_of(dice, &PLACES).replace('#', &digest(dice));
    let parts: Vec<&str> = name.split('/').collect();
    let cut = if dice.below(4) == 0 { position(dice, &vec![0; parts.len()]) } else { parts.len() };
    store.join(parts[..cut].iter().collect::<PathBuf>())
}

/// What belongs into a file of this name, or nearly.
fn content(dice: &mut Dice, path: &Path) -> Vec<u8> {
    let mut bytes = if path.to_string_lossy().ends_with("SUMS") {
        let names = ["w", "sub/w", "x.gguf", "../w", "none"];
        let mut line = || format!("{}  {}\n", digest(dice), one_of(dice, &names));
        (0..5).map(|_| line()).collect::<String>().into_bytes()
    } else if path.ends_with("library/m/latest") {
        let mut blob =
            || format!(r#"{{"digest": "sha256:{}", "size": {}}}"#, digest(dice), one_of(dice, &[4, 7]));
        format!(r#"{{"schemaVersion": 2, "config": {}, "layers": [{}, {}]}}"#, blob(), blob(), blob())
            .into_bytes()
    } else if path.ends_with("manifest.json") {
        let mut model = || {
            let (path, name) =
                (one_of(dice, &["./", "sub", "o/blobs"]), one_of(dice, &["w", "x.gguf", "none"]));
            let digest = digest(dice);
            format!(
                r#"{{"id": "m", "local_path": "{path}", "filename": "{name}", "checksum": {{"algorithm": "sha256", "value": "{digest}"}}}}"#
            )
        };
        format!(r#"{{"schema_version": "0.1", "models": [{}, {}]}}"#, model(), model()).into_bytes()
    } else {
        one_of(dice, &CONTENTS).to_vec()
    };
    if dice.below(4) == 0 {
        mutate(dice, &mut bytes, &[b"}".to_vec(), b"\n".to_vec()]);
    }
    bytes
}

/// Lays out stores; what cannot be put where it should is left out.
fn lay_out(dice: &mut Dice, root: &Path) {
    for _ in 0..30 {
        let path = place(dice, root);
        if path.symlink_metadata().is_ok() || fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        let _ = match dice.below(8) {
            0 => symlink(place(dice, root), &path),
            1 => {
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                let pipe = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).map_err(Into::into)
            }
            2 => fs::create_dir(&path),
            _ => fs::write(&path, content(dice, &path)),
        };
    }
}

/// What a name must not bring to a terminal.
fn is_forbidden(c: char) -> bool {
    c.is_control() && c != '\t'
}

fn look(root: &Path, manifest: &[u8]) -> Verified {
    let layout = Layout::below(root);
    let text = Text::Bytes(manifest.to_vec());
    let gathered = gather(&layout, &text, EnvFile::read(&layout.env_file()), &[root.join("srv/o")]).unwrap();
    verify(gathered, How::Full, &Cache::default(), 2, &()).unwrap()
}

#[test]
fn rw_6_1_rw_6_2c_stores_laid_out_at_random_give_the_same_words_twice_and_none_that_is_wrong() {
    let mut dice = Dice::from_environment();
    let rounds = if dice::long() { 20_000 } else { 200 };
    let (mut verified, mut wrong) = (0, 0);
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        lay_out(&mut dice, &root);
        let manifest = content(&mut dice, Path::new("manifest.json"));
        let before = Scan::digests().of(&root).unwrap();
        let found = look(&root, &manifest).verdicts;
        assert_eq!(found, look(&root, &manifest).verdicts, "round {round}");
        assert_eq!(before, Scan::digests().of(&root).unwrap(), "round {round}: something was changed");
        let mut spoken_of: HashMap<&Path, bool> = HashMap::new();
        for verdict in &found {
            let told = format!("round {round}: {verdict:?}");
            assert!(
                verdict.path.starts_with(&root) && !verdict.path.starts_with(root.join("outside")),
                "{told}"
            );
            assert!(!verdict.shown.is_empty() && !verdict.shown.contains(is_forbidden), "{told}");
            if verdict.finding == Finding::Verified {
                let bytes = fs::read(&verdict.path).unwrap();
                assert!(CONTENTS.contains(&bytes.as_slice()), "{told}");
                verified += 1;
            }
            wrong += usize::from(matches!(verdict.finding, Finding::DigestMismatch { .. }));
            let is_nobodys =
                matches!(verdict.finding, Finding::Unexpected | Finding::Orphaned | Finding::Partial);
            let known = *spoken_of.entry(&verdict.path).or_insert(is_nobodys);
            assert_eq!(known, is_nobodys, "{told}: somebody speaks of it, and nobody does");
        }
    }
    assert!(verified > 20 && wrong > 20, "the stores hold too little: {verified} and {wrong}");
}
