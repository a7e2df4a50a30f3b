//! The header of a safetensors file, which lists where each tensor ends, and the index that names the shards of a
//! model. The module reads only the passed content.
//!
//! Source: the format description of the safetensors project.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Expected, Finding, Format, is_inside, shortened};

/// How many bytes a header may have. Those of large models have about 10 MiB.
pub(crate) const HEADER_LIMIT: u64 = 32 << 20;

/// How many bytes an index may have.
pub(crate) const INDEX_LIMIT: u64 = 16 << 20;

/// The end of the name of an index.
pub(crate) const INDEX_NAME: &str = ".safetensors.index.json";

#[derive(Deserialize)]
struct Tensor {
    /// Where its data begins and ends, after the header; `__metadata__` has none.
    #[serde(default)]
    data_offsets: Option<(u64, u64)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// Examines the header of a file that has `length` bytes.
///
/// # Errors
/// The finding: the file is truncated, is not a safetensors file, or cannot be read.
pub(crate) fn check(mut file: impl Read, length: u64) -> Result<(), Finding> {
    let mut size = [0; 8];
    if length < 8 {
        return Err(Finding::Truncated { needs: 8, found: length });
    }
    file.read_exact(&mut size).map_err(|error| Finding::Unreadable(error.to_string()))?;
    let size = u64::from_le_bytes(size);
    if size > HEADER_LIMIT {
        return Err(Finding::Inconsistent(
            "it is no safetensors file, or its header has more than 32 MiB".to_owned(),
        ));
    }
    if size + 8 > length {
        return Err(Finding::Truncated { needs: size + 8, found: length });
    }
    let header = BufReader::new(file.take(size));
    let tensors: HashMap<String, Tensor> = serde_json::from_reader(header).map_err(|error| {
        Finding::Inconsistent(format!("its safetensors header: {}", shortened(&error.to_string())))
    })?;
    let end = tensors.values().filter_map(|tensor| Some(tensor.data_offsets?.1)).max().unwrap_or(0);
    match end.saturating_add(size + 8) {
        needs if needs > length => Err(Finding::Truncated { needs, found: length }),
        _ => Ok(()),
    }
}

/// Parses the index at `path`. Returns the shards that it names, each of which is required.
///
/// # Errors
/// It is not an index (with line and column), or a name leaves its directory.
pub(crate) fn shards(bytes: &[u8], path: &Path, from: &str) -> Result<Vec<(PathBuf, Expected)>, String> {
    let index: Index = serde_json::from_slice(bytes).map_err(|error| shortened(&error.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let shard = |name: String| {
        if !is_inside(Path::new(&name)) {
            return Err(format!("the shard \"{}\" leaves the directory", shortened(&name)));
        }
        let format = Some(Format::Safetensors);
        let expected = Expected { is_required: true, format, ..Expected::optional(from) };
        Ok((path.with_file_name(name), expected))
    };
    names.into_iter().map(shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(header: &str, data: usize) -> Result<(), Finding> {
        let size = (header.len() as u64).to_le_bytes();
        let bytes = [&size[..], header.as_bytes(), &vec![0; data]].concat();
        check(&bytes[..], bytes.len() as u64)
    }

    #[test]
    fn a_file_that_ends_before_its_last_tensor_is_truncated() {
        let header = r#"{"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;
        assert_eq!(checked(header, 8), Ok(()));
        let needs = header.len() as u64 + 16;
        assert_eq!(checked(header, 7), Err(Finding::Truncated { needs, found: needs - 1 }));
        assert!(matches!(check(&b"\xff\x00"[..], 2), Err(Finding::Truncated { .. })));
        assert!(matches!(check(&b"\x10\0\0\0\0\0\0\0{}"[..], 10), Err(Finding::Truncated { needs: 24, .. })));
        assert!(matches!(check(&[0xff; 64][..], 64), Err(Finding::Inconsistent(_))));
        assert!(matches!(checked("oops", 0), Err(Finding::Inconsistent(why)) if why.contains("column")));
    }

    #[test]
    fn an_index_names_each_shard_once_and_none_elsewhere() {
        let of = |text: &str| shards(text.as_bytes(), Path::new("/m/model.safetensors.index.json"), "index");
        let named =
            of(r#"{"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}"#).unwrap();
        let [(path, expected)] = &named[..] else { panic!("{named:?}") };
        assert_eq!((path.to_str(), expected.is_required), (Some("/m/1.safetensors"), true));
        assert!(of(r#"{"weight_map": {"a": "../x"}}"#).unwrap_err().contains("leaves"));
        assert!(of("{").unwrap_err().contains("line 1"));
    }
}
