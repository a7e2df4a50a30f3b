//! Ollama stores: `manifests/<registry>/<namespace>/<model>/<tag>` names blobs, which are `blobs/sha256-<hex>`. The
//! module reads the manifests. It never starts Ollama itself, because a start removes blobs that no model refers to.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Expected, Format, Sha256Hex, shortened};

/// How many bytes a manifest may have; real ones have about one thousand.
pub(crate) const LIMIT: u64 = 1 << 20;

/// The media type of layers that are GGUF files.
const MODEL: &str = "application/vnd.ollama.image.model";

/// The prefix that is left out of the names of models of Ollama's own library.
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

/// Returns the directory of the blobs and the name of the model if `path` is that of a manifest.
pub(crate) fn manifest_of(path: &Path) -> Option<(PathBuf, String)> {
    let tags = path.ancestors().nth(4)?;
    if tags.file_name()? != "manifests" || path.file_name()?.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    let name = path.strip_prefix(tags).ok()?.to_string_lossy().into_owned();
    let (model, tag) = name.strip_prefix(LIBRARY).unwrap_or(&name).rsplit_once('/')?;
    Some((tags.with_file_name("blobs"), shortened(&format!("{model}:{tag}"))))
}

/// Parses the manifest of `model`. Returns its files in the directory `blobs` and the expectations about them.
///
/// # Errors
/// It is not JSON (with line and column), has another version, names no blob or a malformed digest.
pub(crate) fn parse(bytes: &[u8], blobs: &Path, model: &str) -> Result<Vec<(PathBuf, Expected)>, String> {
    let json: Json = serde_json::from_slice(bytes).map_err(|error| shortened(&error.to_string()))?;
    if json.version != 2 {
        return Err(format!("schemaVersion is {}, supported is 2", json.version));
    }
    // Ollama writes an empty digest, and null, if a model has no configuration or layers.
    let config = json.config.filter(|layer| !layer.digest.is_empty());
    let layers = config.into_iter().chain(json.layers.unwrap_or_default());
    let files = layers.map(|layer| {
        let hex = layer.digest.strip_prefix("sha256:").unwrap_or_default();
        let digest = Sha256Hex::parse(hex).map_err(|why| format!("{}: {why}", shortened(&layer.digest)))?;
        let format = (layer.media_type == MODEL).then_some(Format::Gguf);
        let kind = layer.media_type.rsplit('.').next().unwrap_or_default();
        let from = format!("ollama: {model} {}", shortened(kind));
        let path = blobs.join(format!("sha256-{}", digest.as_str()));
        Ok((path, Expected { from, is_required: true, size: Some(layer.size), digest: Some(digest), format }))
    });
    let files: Vec<_> = files.collect::<Result<_, String>>()?;
    if files.is_empty() { Err("it names no blob".to_owned()) } else { Ok(files) }
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
        let files = parse(text.as_bytes(), Path::new("/s/blobs"), "mistral:latest").unwrap();
        let (path, expected) = &files[1];
        assert_eq!(path, &PathBuf::from(format!("/s/blobs/sha256-{}", "b".repeat(64))));
        assert_eq!((expected.from.as_str(), expected.size), ("ollama: mistral:latest model", Some(5)));
        assert_eq!((expected.format, files[0].1.format), (Some(Format::Gguf), None));
        let none = r#"{"mediaType": "", "digest": "", "size": 0}"#;
        for text in [
            format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": null}}"#),
            format!(r#"{{"schemaVersion": 2, "config": {none}, "layers": [{weights}]}}"#),
        ] {
            assert_eq!(parse(text.as_bytes(), Path::new("/b"), "m").unwrap().len(), 1, "{text}");
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
            let refused = parse(bad.as_bytes(), Path::new("/b"), "m").unwrap_err();
            assert!(refused.contains(why), "{bad}: {refused}");
        }
    }

    #[test]
    fn the_path_of_a_manifest_names_its_model_and_the_directory_of_its_blobs() {
        let of = |path: &str| manifest_of(Path::new(path));
        let named = of("/s/manifests/registry.ollama.ai/library/mistral/latest");
        assert_eq!(named, Some((PathBuf::from("/s/blobs"), "mistral:latest".to_owned())));
        assert_eq!(of("/s/manifests/hf.co/org/m/Q4").unwrap().1, "hf.co/org/m:Q4");
        assert_eq!((of("/s/manifests/a/b/c"), of("/s/manifests/a/b/c/.d")), (None, None));
    }
}
