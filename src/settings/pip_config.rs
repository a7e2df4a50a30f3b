//! The host's configuration of pip, as far as it says where packages come from and how they are reached.
//!
//! It is read by the tool itself and given to both installers in so many words; no installer looks for configuration.
//! Source: pip's "Configuration".

use std::path::PathBuf;

use super::environment;
use super::layout::Layout;
use crate::disk;
use crate::error::{Context as _, Outcome};

/// The keys that are passed on.
const KEYS: [&str; 5] = ["index-url", "extra-index-url", "cert", "proxy", "trusted-host"];

/// The sections, later ones win: `install` is what the installers would obey.
const SECTIONS: [&str; 3] = ["global", "download", "install"];

/// What the host's configuration of pip says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipConfig {
    values: Vec<(String, String)>,
}

impl PipConfig {
    /// Reads the files that pip would read for everybody: those of the system, then the one that `PIP_CONFIG_FILE`
    /// names. With `/dev/null` there, pip reads none at all, nor does this. Files of single users do not count.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(layout: &Layout) -> Outcome<Self> {
        let named = environment::variable("PIP_CONFIG_FILE").map(PathBuf::from);
        let mut config = Self::default();
        if named.as_ref().is_some_and(|file| file.as_os_str() == "/dev/null") {
            return Ok(config);
        }
        for file in layout.pip_configurations().into_iter().chain(named) {
            let Some(bytes) = disk::read_if_there(&file)? else { continue };
            let text = String::from_utf8(bytes).context(|| format!("{} is no text", file.display()))?;
            config.add(&text);
        }
        Ok(config)
    }

    /// Returns a value; several are parted by blanks.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Lays the text of one file over what is there.
    pub(crate) fn add(&mut self, text: &str) {
        let lines = parse(text);
        for section in SECTIONS {
            for (_, key, value) in lines.iter().filter(|(of, _, _)| of == section) {
                if KEYS.contains(&key.as_str()) {
                    self.values.retain(|(known, _)| known != key);
                    self.values.push((key.clone(), value.clone()));
                }
            }
        }
    }
}

/// The settings of a file: section, key, value. A line that begins with a blank continues the value before it.
fn parse(text: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    let mut section = String::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.trim().clone_into(&mut section);
        } else if line.starts_with([' ', '\t'])
            && let Some((of, _, value)) = found.last_mut()
            && *of == section
        {
            if !value.is_empty() {
                value.push(' ');
            }
            value.push_str(trimmed);
        } else if let Some((key, value)) = trimmed.split_once(['=', ':']) {
            let key = key.trim().to_ascii_lowercase().replace('_', "-");
            found.push((section.clone(), key, value.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_system_are_read_below_the_root_and_later_ones_win() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::below(folder.path());
        let [first, second] = layout.pip_configurations();
        for (file, text) in [
            (&first, "[global]\nindex-url = https://one/simple\nproxy = http://p\n"),
            (&second, "[global]\nindex_url: https://two/simple\nno-index = true\n"),
        ] {
            disk::make_folder(file.parent().unwrap(), 0o755).unwrap();
            disk::write_atomic(file, text.as_bytes(), 0o644).unwrap();
        }
        let mut read = PipConfig::default();
        for file in [first, second] {
            read.add(&String::from_utf8(disk::read_if_there(&file).unwrap().unwrap()).unwrap());
        }
        assert_eq!(read.value("index-url"), Some("https://two/simple"));
        assert_eq!(read.value("proxy"), Some("http://p"));
        assert_eq!(read.value("no-index"), None);
    }

    #[test]
    fn the_section_of_installing_wins_and_values_may_take_several_lines() {
        let mut read = PipConfig::default();
        read.add(
            "# c\n[install]\nindex-url = https://i/a=b\n[global]\nindex-url = https://g\nextra-index-url =\n    \
             https://e1 ; d\n\n    https://e2\ntrusted-host = h\n[list]\ncert = /no\n",
        );
        assert_eq!(read.value("index-url"), Some("https://i/a=b"));
        assert_eq!(read.value("extra-index-url"), Some("https://e1 ; d https://e2"));
        assert_eq!(read.value("trusted-host"), Some("h"));
        assert_eq!(read.value("cert"), None);
    }
}
