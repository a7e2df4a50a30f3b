//! Stores of Ollama: `manifests/<registry>/<namespace>/<model>/<tag>` name a configuration and layers, which lie in `blobs/`
//! under their digests.
//!
//! Ollama itself is never asked: its start removes blobs that nothing refers to.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Outcome;
use crate::manifest::{Entry, Kind};
use crate::process::interrupt;

use super::store::Store;
use super::{Algorithm, Claim, Digest, Finding, Header, Need, Said, told_short, whole};

/// How many bytes a manifest may have; real ones have about one thousand.
const LIMIT: u64 = 4 << 20;

/// The media type of layers that are GGUF files.
const MODEL: &str = "application/vnd.ollama.image.model";

/// What models of Ollama's own library are called without.
const LIBRARY: &str = "registry.ollama.ai/library/";

/// One blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// What it is for the model: `configuration`, `layer 1`, ….
    pub role: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is a GGUF file.
    pub header: Header,
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(rename = "schemaVersion")]
    version: u64,
    config: Option<RawBlob>,
    #[serde(default)]
    layers: Vec<RawBlob>,
}

#[derive(Deserialize)]
struct RawBlob {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// Reads the manifest of a model.
///
/// # Errors
/// It is no JSON (with line and column), no such manifest, of another version, or names a digest that is none.
pub fn parse(bytes: &[u8]) -> Result<Vec<Blob>, String> {
    let raw: RawManifest = serde_json::from_slice(bytes).map_err(|error| told_short(&error.to_string()))?;
    if raw.version != 2 {
        return Err(format!("its schemaVersion is {}; known here is 2", raw.version));
    }
    if raw.config.is_none() && raw.layers.is_empty() {
        return Err("it names no blob".to_owned());
    }
    let config = raw.config.into_iter().map(|blob| ("configuration".to_owned(), blob));
    let layers = raw.layers.into_iter().enumerate();
    let layers = layers.map(|(index, blob)| (format!("layer {}", index + 1), blob));
    config.chain(layers).map(|(role, blob)| named(role, &blob)).collect()
}

fn named(role: String, blob: &RawBlob) -> Result<Blob, String> {
    let Some(hex) = blob.digest.strip_prefix("sha256:") else {
        return Err(format!("the digest of its {role} is no sha256: \"{}\"", told_short(&blob.digest)));
    };
    let digest = Digest::parse(Algorithm::Sha256, hex).map_err(|why| format!("{role}: {why}"))?;
    let header = if blob.media_type == MODEL { Header::Gguf } else { Header::None };
    Ok(Blob { role, digest, size: blob.size, header })
}

/// Says what the manifests of the Ollama store at `folder` claim about its blobs, and what else lies there.
///
/// # Errors
/// The interruption.
pub fn claims(store: &Store, folder: &Path, said: &mut Said) -> Outcome<()> {
    let mut referred: HashSet<PathBuf> = HashSet::new();
    // Where one cannot be read, no blob can be called orphaned: it may be that one's.
    let mut is_every_manifest_read = true;
    let manifests = folder.join("manifests");
    for entry in store.below(&manifests) {
        interrupt::check()?;
        if said.is_full() {
            return Ok(());
        }
        let name = entry.path.strip_prefix(&manifests).unwrap_or(&entry.path);
        if entry.kind == Kind::Folder || is_hidden(name) {
            continue;
        }
        let from = format!("ollama: {}", model_name(name));
        if name.components().count() != 4 {
            said.verdicts.push(store.verdict(&entry.path, "ollama", Finding::Unexpected));
            continue;
        }
        match read(store, entry) {
            Ok(blobs) => {
                for blob in blobs {
                    let path = place(store, folder, &blob.digest);
                    referred.insert(path.clone());
                    said.push(store, &path, claim(&from, blob));
                }
            }
            Err(finding) => {
                is_every_manifest_read = false;
                said.verdicts.push(store.verdict(&entry.path, &from, finding));
            }
        }
    }
    let blobs = folder.join("blobs");
    for entry in store.below(&blobs) {
        interrupt::check()?;
        if entry.kind == Kind::Folder || referred.contains(&entry.path) {
            continue;
        }
        let name = entry.path.strip_prefix(&blobs).unwrap_or(&entry.path);
        let finding = match blob_name(name) {
            Named::Blob if is_every_manifest_read => Finding::Orphaned,
            Named::Blob => continue,
            Named::Partial => Finding::Partial,
            Named::Other if is_hidden(name) => continue,
            Named::Other => Finding::Unexpected,
        };
        said.verdicts.push(store.verdict(&entry.path, "ollama", finding));
    }
    Ok(())
}

fn claim(from: &str, blob: Blob) -> Claim {
    Claim {
        path: PathBuf::new(),
        shown: String::new(),
        need: Need::Required,
        size: Some(blob.size),
        digest: Some(blob.digest),
        from: format!("{from} {}", blob.role),
        header: blob.header,
    }
}

fn read(store: &Store, entry: &Entry) -> Result<Vec<Blob>, Finding> {
    if entry.kind != Kind::File {
        return Err(Finding::Unreadable("it is no regular file".to_owned()));
    }
    let bytes = whole::read(&store.base.join(&entry.path), LIMIT)
        .map_err(|error| Finding::Unreadable(error.to_string()))?;
    parse(&bytes).map_err(Finding::Inconsistent)
}

/// Early versions of Ollama wrote a colon for the dash.
fn place(store: &Store, folder: &Path, digest: &Digest) -> PathBuf {
    let at = |mark: char| folder.join("blobs").join(format!("sha256{mark}{}", digest.hex));
    let early = at(':');
    if store.entry(&early).is_some() { early } else { at('-') }
}

enum Named {
    Blob,
    Partial,
    Other,
}

/// `sha256-<hex>`, or with `-partial` and `-partial-<n>` after it while it is downloaded.
fn blob_name(name: &Path) -> Named {
    let Some(name) = name.to_str() else { return Named::Other };
    let Some(rest) = name.strip_prefix("sha256-").or_else(|| name.strip_prefix("sha256:")) else {
        return Named::Other;
    };
    match rest.split_at_checked(64) {
        Some((hex, end)) if Digest::parse(Algorithm::Sha256, hex).is_ok() => match end {
            "" => Named::Blob,
            _ if end.starts_with("-partial") => Named::Partial,
            _ => Named::Other,
        },
        _ => Named::Other,
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// `mistral:latest` for `registry.ollama.ai/library/mistral/latest`.
fn model_name(path: &Path) -> String {
    let whole = path.to_string_lossy();
    let short = whole.strip_prefix(LIBRARY).unwrap_or(&whole);
    match short.rsplit_once('/') {
        Some((model, tag)) => told_short(&format!("{model}:{tag}")),
        None => told_short(short),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out a store")]
mod tests {
    use std::fs;

    use super::*;

    const TAG: &str = "manifests/registry.ollama.ai/library/mistral/latest";

    fn hex(digit: &str) -> String {
        digit.repeat(64)
    }

    fn manifest() -> String {
        format!(
            r#"{{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {{"mediaType": "application/vnd.docker.container.image.v1+json", "digest": "sha256:{}", "size": 3}},
            "layers": [{{"mediaType": "{MODEL}", "digest": "sha256:{}", "size": 5}}]}}"#,
            hex("a"),
            hex("b")
        )
    }

    fn store(files: &[(&str, &str)]) -> (tempfile::TempDir, Said) {
        let place = tempfile::tempdir().unwrap();
        for folder in ["manifests", "blobs"] {
            fs::create_dir_all(place.path().join(folder)).unwrap();
        }
        for (file, text) in files {
            fs::create_dir_all(place.path().join(file).parent().unwrap()).unwrap();
            fs::write(place.path().join(file), text).unwrap();
        }
        let store = Store::open(place.path()).unwrap().unwrap();
        let mut said = Said::default();
        claims(&store, Path::new(""), &mut said).unwrap();
        (place, said)
    }

    #[test]
    fn every_blob_of_a_model_is_claimed_with_its_role() {
        let (_place, said) = store(&[(TAG, &manifest())]);
        let told: Vec<_> =
            said.claims.iter().map(|claim| (claim.from.as_str(), claim.size, claim.header)).collect();
        assert_eq!(
            told,
            [
                ("ollama: mistral:latest configuration", Some(3), Header::None),
                ("ollama: mistral:latest layer 1", Some(5), Header::Gguf)
            ]
        );
        assert!(said.claims[1].path.ends_with(format!("blobs/sha256-{}", hex("b"))));
        assert_eq!(said.verdicts, []);
    }

    #[test]
    fn what_nothing_refers_to_and_what_did_not_end_is_told() {
        let (orphan, partial) =
            (format!("blobs/sha256-{}", hex("c")), format!("blobs/sha256-{}-partial-0", hex("d")));
        let (_place, said) =
            store(&[(TAG, &manifest()), (&orphan, "x"), (&partial, "y"), ("blobs/notes.txt", "z")]);
        let found: Vec<_> = said.verdicts.iter().map(|verdict| verdict.finding.clone()).collect();
        assert_eq!(found, [Finding::Unexpected, Finding::Orphaned, Finding::Partial]);
    }

    #[test]
    fn while_a_manifest_cannot_be_read_no_blob_is_called_orphaned() {
        let orphan = format!("blobs/sha256-{}", hex("c"));
        let (_place, said) = store(&[(TAG, "{\n oops"), (&orphan, "x")]);
        let [verdict] = &said.verdicts[..] else { panic!("{:?}", said.verdicts) };
        assert!(matches!(&verdict.finding, Finding::Inconsistent(why) if why.contains("line 2 column 2")));
        assert_eq!(verdict.from, "ollama: mistral:latest");
    }

    #[test]
    fn manifests_that_name_no_blob_or_no_digest_are_refused() {
        for (bad, why) in [
            (r#"{"schemaVersion": 1}"#, "schemaVersion is 1"),
            (r#"{"schemaVersion": 2}"#, "names no blob"),
            (r#"{"schemaVersion": 2, "layers": [{"digest": "md5:x", "size": 1}]}"#, "no sha256"),
            (r#"{"schemaVersion": 2, "layers": [{"digest": "sha256:../../x", "size": 1}]}"#, "malformed"),
            (r#"{"schemaVersion": 2, "layers": [{"digest": "sha256:", "size": -1}]}"#, "line 1"),
            ("[]", "line 1"),
        ] {
            let told = parse(bad.as_bytes()).unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
    }
}
