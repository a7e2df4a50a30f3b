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

use super::store::{Leads, Store};
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
    layers: Option<Vec<RawBlob>>,
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
    // Ollama writes what it has none of as an empty digest, and as null.
    let config = raw.config.filter(|blob| !blob.digest.is_empty());
    let layers = raw.layers.unwrap_or_default();
    if config.is_none() && layers.is_empty() {
        return Err("it names no blob".to_owned());
    }
    let config = config.into_iter().map(|blob| ("configuration".to_owned(), blob));
    let layers = layers.into_iter().enumerate();
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

/// Says what the manifests of the Ollama store at `folder` claim about its blobs. Returns whether all of them were read:
/// where one was not, no blob can be called orphaned, since it may be that one's.
///
/// # Errors
/// The interruption, or a folder that a link leads to cannot be looked at.
pub fn claims(store: &Store, folder: &Path, said: &mut Said) -> Outcome<bool> {
    let part = Part::open(store, folder.join("manifests"))?;
    let mut is_every_manifest_read = part.store().is_whole(&part.path);
    for entry in part.entries() {
        interrupt::check()?;
        if said.is_full() {
            return Ok(false);
        }
        let name = part.name(entry);
        if entry.kind == Kind::Folder || !is_manifest_name(name) {
            continue;
        }
        let from = format!("ollama: {}", model_name(name));
        match read(part.store(), entry) {
            Ok(blobs) => {
                for blob in blobs {
                    let path = place(store, folder, &blob.digest);
                    said.push(store, &path, claim(&from, blob));
                }
            }
            Err(finding) => {
                is_every_manifest_read = false;
                said.verdicts.push(part.store().verdict(&entry.path, &from, finding));
            }
        }
    }
    Ok(is_every_manifest_read)
}

/// Says what else lies in the Ollama store at `folder`; `claimed` is what somebody says something about.
///
/// # Errors
/// As [`claims`].
pub(super) fn others(
    store: &Store,
    folder: &Path,
    claimed: &HashSet<PathBuf>,
    is_every_manifest_read: bool,
    said: &mut Said,
) -> Outcome<()> {
    let part = Part::open(store, folder.join("manifests"))?;
    for entry in part.entries() {
        interrupt::check()?;
        let name = part.name(entry);
        let is_passed_over = entry.kind == Kind::Folder || is_hidden(name) || is_manifest_name(name);
        if !is_passed_over && !part.store().is_claimed(&entry.path, claimed) {
            said.verdicts.push(part.store().verdict(&entry.path, "ollama", Finding::Unexpected));
        }
    }
    let part = Part::open(store, folder.join("blobs"))?;
    for entry in part.entries() {
        interrupt::check()?;
        if entry.kind == Kind::Folder || part.store().is_claimed(&entry.path, claimed) {
            continue;
        }
        let name = part.name(entry);
        let finding = match blob_name(name) {
            Named::Blob if is_every_manifest_read => Finding::Orphaned,
            Named::Blob => continue,
            Named::Partial => Finding::Partial,
            Named::Other if is_hidden(name) => continue,
            Named::Other => Finding::Unexpected,
        };
        said.verdicts.push(part.store().verdict(&entry.path, "ollama", finding));
    }
    Ok(())
}

/// `manifests/` or `blobs/`: a folder of the store, or a link to one.
struct Part<'a> {
    store: &'a Store,
    linked: Option<Store>,
    /// Where it is in the store that lists it.
    path: PathBuf,
}

impl<'a> Part<'a> {
    fn open(store: &'a Store, path: PathBuf) -> Outcome<Self> {
        let linked = store.linked(&path)?;
        let path = if linked.is_some() { PathBuf::new() } else { path };
        Ok(Self { store, linked, path })
    }

    fn store(&self) -> &Store {
        self.linked.as_ref().unwrap_or(self.store)
    }

    fn entries(&self) -> &[Entry] {
        self.store().below(&self.path)
    }

    fn name<'e>(&self, entry: &'e Entry) -> &'e Path {
        entry.path.strip_prefix(&self.path).unwrap_or(&entry.path)
    }
}

/// Tells whether a path below `manifests/` is one of a manifest: `<registry>/<namespace>/<model>/<tag>`.
pub(super) fn is_manifest_name(name: &Path) -> bool {
    name.components().count() == 4 && !is_hidden(name)
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
    // Behind a link only the disk knows.
    let is_early = matches!(store.follow(&early), Leads::To(real) if real.symlink_metadata().is_ok());
    if is_early { early } else { at('-') }
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
        let is_whole = claims(&store, Path::new(""), &mut said).unwrap();
        let claimed = said.paths();
        others(&store, Path::new(""), &claimed, is_whole, &mut said).unwrap();
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
    fn rw_6_2b_what_a_model_has_none_of_is_no_mistake() {
        let blob = format!(r#"{{"mediaType": "", "digest": "sha256:{}", "size": 3}}"#, hex("a"));
        let none = r#"{"mediaType": "", "digest": "", "size": 0}"#;
        for text in [
            format!(r#"{{"schemaVersion": 2, "config": {blob}, "layers": null}}"#),
            format!(r#"{{"schemaVersion": 2, "config": {none}, "layers": [{blob}]}}"#),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().len(), 1, "{text}");
        }
        let empty = format!(r#"{{"schemaVersion": 2, "config": {none}, "layers": null}}"#);
        assert_eq!(parse(empty.as_bytes()).unwrap_err(), "it names no blob");
    }

    #[test]
    fn rw_6_2b_parts_behind_links_are_listed_where_they_lie() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        for folder in ["store", "disk/blobs", "disk/manifests/registry.ollama.ai/library/mistral"] {
            fs::create_dir_all(place.join(folder)).unwrap();
        }
        for part in ["blobs", "manifests"] {
            std::os::unix::fs::symlink(place.join("disk").join(part), place.join("store").join(part))
                .unwrap();
        }
        let blob = |digit: &str| place.join("disk/blobs").join(format!("sha256-{}", hex(digit)));
        fs::write(place.join("disk").join(TAG), manifest()).unwrap();
        for digit in ["a", "b", "c"] {
            fs::write(blob(digit), "x").unwrap();
        }
        let mut store = Store::open(&place.join("store")).unwrap().unwrap();
        store.allow(&[place.join("disk")]);
        assert_eq!(store.forms().unwrap().len(), 1);
        let mut said = Said::default();
        assert!(claims(&store, Path::new(""), &mut said).unwrap());
        let paths: Vec<_> = said.claims.iter().map(|claim| claim.path.clone()).collect();
        assert_eq!(paths, [blob("a"), blob("b")]);
        others(&store, Path::new(""), &said.paths(), true, &mut said).unwrap();
        let [verdict] = &said.verdicts[..] else { panic!("{:?}", said.verdicts) };
        assert_eq!((&verdict.path, &verdict.finding), (&blob("c"), &Finding::Orphaned));
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
