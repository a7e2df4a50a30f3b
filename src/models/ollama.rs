//! Ollama stores: `manifests/<registry>/<namespace>/<model>/<tag>` names blobs, which are `blobs/sha256-<hex>`. It reads the
//! manifests. Ollama itself is never asked: its start removes blobs that no model refers to.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Expected, Format, Sha256Hex, shortened};

/// How many bytes a manifest may have; real ones have about one thousand.
pub const LIMIT: u64 = 1 << 20;

/// The media type of layers that are GGUF files.
const MODEL: &str = "application/vnd.ollama.image.model";

/// What is left out of the names of models of Ollama's own library.
const LIBRARY: &str = "registry.ollama.ai/library/";

#[derive(Deserialize)]
struct Json {
    #[serde(rename = "schemaVersion")]
    version: u64,
    config: Option<Layer>,
    layers: Option<Vec<Layer>>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// Returns the directory of the store and the name of the model if `path` is that of a manifest.
pub fn manifest_of(path: &Path) -> Option<(&Path, String)> {
    let tags = path.ancestors().nth(4)?;
    if tags.file_name()? != "manifests" || path.file_name()?.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    let name = path.strip_prefix(tags).ok()?.to_string_lossy().into_owned();
    let (model, tag) = name.strip_prefix(LIBRARY).unwrap_or(&name).rsplit_once('/')?;
    Some((tags.parent()?, shortened(&format!("{model}:{tag}"))))
}

/// Parses the manifest of `model`. Returns the names of its blobs and what is expected of them.
///
/// # Errors
/// It is no JSON (with line and column), has another version, names no blob or a malformed digest.
pub fn parse(bytes: &[u8], model: &str) -> Result<Vec<(PathBuf, Expected)>, String> {
    let json: Json = serde_json::from_slice(bytes).map_err(|error| shortened(&error.to_string()))?;
    if json.version != 2 {
        return Err(format!("schemaVersion is {}, supported is 2", json.version));
    }
    // Ollama writes an empty digest, and null, where a model has no configuration or layers.
    let config = json.config.filter(|layer| !layer.digest.is_empty());
    let config = config.map(|layer| ("configuration".to_owned(), layer));
    let layers = json.layers.unwrap_or_default().into_iter().enumerate();
    let layers = layers.map(|(index, layer)| (format!("layer {}", index + 1), layer));
    let blobs: Vec<_> = config.into_iter().chain(layers).collect();
    if blobs.is_empty() {
        return Err("it names no blob".to_owned());
    }
    blobs.into_iter().map(|(role, layer)| blob(model, &role, &layer)).collect()
}

fn blob(model: &str, role: &str, layer: &Layer) -> Result<(PathBuf, Expected), String> {
    let hex = layer.digest.strip_prefix("sha256:").unwrap_or_default();
    let digest = Sha256Hex::parse(hex).map_err(|why| format!("{role}: {why}"))?;
    let name = PathBuf::from(format!("sha256-{}", digest.as_str()));
    let format = (layer.media_type == MODEL).then_some(Format::Gguf);
    let from = format!("ollama: {model} {role}");
    let size = Some(layer.size);
    Ok((name, Expected { from, is_required: true, size, digest: Some(digest), format }))
}

/// What the name of a file in `blobs/` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobName {
    /// A blob.
    Blob,
    /// An unfinished download: `sha256-<hex>-partial` and `sha256-<hex>-partial-<n>`.
    Partial,
}

/// Reads the name of a file in `blobs/`; returns `None` for another name.
pub fn blob_name(path: &Path) -> Option<BlobName> {
    let rest = path.file_name()?.to_str()?.strip_prefix("sha256-")?;
    let (hex, end) = rest.split_at_checked(64)?;
    Sha256Hex::parse(hex).ok()?;
    match end {
        "" => Some(BlobName::Blob),
        _ if end.starts_with("-partial") => Some(BlobName::Partial),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(kind: &str, digit: &str, size: u64) -> String {
        format!(r#"{{"mediaType": "{kind}", "digest": "sha256:{}", "size": {size}}}"#, digit.repeat(64))
    }

    #[test]
    fn every_blob_of_a_model_is_expected_with_digest_and_length() {
        let (config, weights) = (layer("", "a", 3), layer(MODEL, "b", 5));
        let text = format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": [{weights}]}}"#);
        let blobs = parse(text.as_bytes(), "mistral:latest").unwrap();
        let (name, expected) = &blobs[1];
        assert_eq!(name, &PathBuf::from(format!("sha256-{}", "b".repeat(64))));
        assert_eq!((expected.from.as_str(), expected.size), ("ollama: mistral:latest layer 1", Some(5)));
        assert_eq!((expected.format, blobs[0].1.format), (Some(Format::Gguf), None));
        let none = r#"{"mediaType": "", "digest": "", "size": 0}"#;
        for text in [
            format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": null}}"#),
            format!(r#"{{"schemaVersion": 2, "config": {none}, "layers": [{weights}]}}"#),
        ] {
            assert_eq!(parse(text.as_bytes(), "m").unwrap().len(), 1, "{text}");
        }
    }

    #[test]
    fn rw_6_2b_a_manifest_without_blobs_or_digests_is_refused() {
        for (bad, why) in [
            (r#"{"schemaVersion": 1}"#, "schemaVersion is 1"),
            (r#"{"schemaVersion": 2}"#, "names no blob"),
            (r#"{"schemaVersion": 2, "layers": [{"digest": "md5:x", "size": 1}]}"#, "malformed"),
            (r#"{"schemaVersion": 2, "layers": [{"digest": "sha256:../../x", "size": 1}]}"#, "malformed"),
            (r#"{"schemaVersion": 2, "layers": [{"digest": "sha256:", "size": -1}]}"#, "line 1"),
            ("[]", "line 1"),
        ] {
            let refused = parse(bad.as_bytes(), "m").unwrap_err();
            assert!(refused.contains(why), "{bad}: {refused}");
        }
    }

    #[test]
    fn paths_of_manifests_and_blobs_are_known_by_their_form() {
        let path = Path::new("/s/manifests/registry.ollama.ai/library/mistral/latest");
        assert_eq!(manifest_of(path), Some((Path::new("/s"), "mistral:latest".to_owned())));
        let other = manifest_of(Path::new("/s/manifests/hf.co/org/m/Q4")).unwrap();
        assert_eq!(other.1, "hf.co/org/m:Q4");
        assert_eq!(manifest_of(Path::new("/s/manifests/a/b/c")), None);
        let blob = format!("/s/blobs/sha256-{}", "a".repeat(64));
        assert_eq!(blob_name(Path::new(&blob)), Some(BlobName::Blob));
        assert_eq!(blob_name(Path::new(&format!("{blob}-partial-3"))), Some(BlobName::Partial));
        assert_eq!(blob_name(Path::new("/s/blobs/notes.txt")), None);
    }
}
