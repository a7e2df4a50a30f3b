//! A wheel, as the specification of binary distributions describes it: what it holds, and where an installer puts that.
//!
//! Only reads. A wheel that comes here has the digest that the lock names; it is not trusted for all that to keep its
//! files within the environment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zip::ZipArchive;

use super::record::{Package, parse_metadata};
use crate::error::{Context as _, Failure, Outcome};
use crate::hexadecimal::hexadecimal;
use crate::process::interrupt;

/// How many bytes of a wheel's own description are believed to be that.
const DESCRIPTION_LIMIT: u64 = 32 << 20;

/// A wheel that is open for reading.
pub(super) struct WheelFile<R = File> {
    archive: ZipArchive<R>,
    /// What it distributes.
    pub(super) package: Package,
    /// Its files.
    pub(super) members: Vec<Member>,
    /// The programs that an installer makes for it.
    pub(super) programs: Vec<Program>,
}

/// A file in a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name in the archive.
    pub(super) name: String,
    /// Where it belongs.
    pub(super) place: Place,
    /// The sha256 that the wheel's `RECORD` names, in hexadecimal digits.
    pub(super) sha256: Option<String>,
}

/// Where a file of a wheel belongs, relative to a folder of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the packages.
    Packages(PathBuf),
    /// Among the programs; its first line is rewritten where it starts with `#!python`.
    Programs(PathBuf),
    /// Among the headers of the distribution.
    Headers(PathBuf),
    /// Below the environment itself.
    Data(PathBuf),
}

/// A program that an installer makes: a line of `entry_points.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Its name.
    pub(super) name: String,
    /// The module that it imports.
    pub(super) module: String,
    /// What it calls in it.
    pub(super) call: String,
}

impl WheelFile {
    /// Opens the wheel at `path`.
    ///
    /// # Errors
    /// It is no wheel, or names a place outside of the environment.
    pub(super) fn open(path: &Path) -> Outcome<Self> {
        let told = || format!("cannot read the wheel {}", path.display());
        let file = File::open(path).context(told)?;
        Self::read(file).context(told)
    }
}

impl<R: std::io::Read + Seek> WheelFile<R> {
    fn read(reader: R) -> Outcome<Self> {
        let told = || "it is no archive that can be read".to_owned();
        let mut archive = ZipArchive::new(reader).context(told)?;
        let names: Vec<String> =
            archive.file_names().filter(|name| !name.ends_with('/')).map(str::to_owned).collect();
        // A wheel may carry others within it, as a distribution that brings its own dependencies does.
        let mut described = names
            .iter()
            .filter_map(|name| name.strip_suffix(".dist-info/WHEEL"))
            .filter(|stem| !stem.contains('/'));
        let stem = match (described.next(), described.next()) {
            (Some(stem), None) => stem.to_owned(),
            _ => return Err(Failure::new("it has not one description")),
        };
        let mut text = |file: &str| -> Outcome<Option<Vec<u8>>> {
            let name = format!("{stem}.dist-info/{file}");
            if !names.contains(&name) {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            let member = archive.by_name(&name).context(told)?;
            member.take(DESCRIPTION_LIMIT).read_to_end(&mut bytes).context(told)?;
            Ok(Some(bytes))
        };
        let package = text("METADATA")?
            .and_then(|bytes| parse_metadata(&bytes))
            .ok_or_else(|| Failure::new("it tells neither its name nor its version"))?;
        let record = text("RECORD")?.ok_or_else(|| Failure::new("it has no RECORD"))?;
        let digests = parse_record(&String::from_utf8_lossy(&record));
        let points = text("entry_points.txt")?.unwrap_or_default();
        let programs = parse_entry_points(&String::from_utf8_lossy(&points));
        let mut members = Vec::new();
        for name in names {
            let place = place(&name, &stem)?;
            let sha256 = digests.get(&name).cloned();
            members.push(Member { name, place, sha256 });
        }
        Ok(Self { archive, package, members, programs })
    }

    /// Returns the sha256 of a file as it lies in the wheel, whatever its `RECORD` says.
    ///
    /// # Errors
    /// The archive is damaged, the file is larger than the archive says, or the run is interrupted.
    pub(super) fn digest(&mut self, name: &str) -> Outcome<String> {
        let told = || format!("cannot read {name} in the wheel of {}", self.package.name);
        let mut member = self.archive.by_name(name).context(told)?;
        let limit = member.size();
        let (mut state, mut size) = (Sha256::new(), 0_u64);
        let mut buffer = vec![0_u8; 128 << 10];
        loop {
            interrupt::check()?;
            let count = member.read(&mut buffer).context(told)?;
            if count == 0 {
                return Ok(hexadecimal(&state.finalize()));
            }
            size += count as u64;
            if size > limit {
                let what =
                    format!("{} has more than the {limit} bytes that the archive names", member.name());
                return Err(Failure::new(what)).context(told);
            }
            state.update(&buffer[..count]);
        }
    }

    /// Returns a file of at most `limit` bytes; what is beyond is left out.
    ///
    /// # Errors
    /// The archive is damaged.
    pub(super) fn content(&mut self, name: &str, limit: u64) -> Outcome<Vec<u8>> {
        let told = || format!("cannot read {name} in the wheel of {}", self.package.name);
        let mut bytes = Vec::new();
        self.archive.by_name(name).context(told)?.take(limit).read_to_end(&mut bytes).context(told)?;
        Ok(bytes)
    }
}

/// Where a file of the wheel of `stem` (`name-version`) belongs.
fn place(name: &str, stem: &str) -> Outcome<Place> {
    let path = Path::new(name);
    let is_within = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_within || name.contains('\\') {
        return Err(Failure::new(format!("it would put {name:?} outside of the environment")));
    }
    let Ok(spread) = path.strip_prefix(format!("{stem}.data")) else {
        return Ok(Place::Packages(path.to_path_buf()));
    };
    let mut parts = spread.components();
    let kind = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let rest = parts.as_path().to_path_buf();
    match kind.as_deref() {
        Some("purelib" | "platlib") => Ok(Place::Packages(rest)),
        Some("scripts") => Ok(Place::Programs(rest)),
        Some("headers") => Ok(Place::Headers(rest)),
        Some("data") => Ok(Place::Data(rest)),
        _ => Err(Failure::new(format!("nobody knows where {name:?} belongs"))),
    }
}

/// Reads a `RECORD`: the sha256 of every file that has one, in hexadecimal digits.
fn parse_record(text: &str) -> BTreeMap<String, String> {
    let digests = text.lines().filter_map(|line| {
        let mut cells = cells(line).into_iter();
        let (name, digest) = (cells.next()?, cells.next()?);
        Some((name, hexadecimal(&unpadded_base64(digest.strip_prefix("sha256=")?)?)))
    });
    digests.collect()
}

/// The cells of a line of comma-separated values.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut is_quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let cell = cells.len() - 1;
        match letter {
            // Within quotes, a quote that is meant is written twice.
            '"' if is_quoted && letters.next_if_eq(&'"').is_some() => cells[cell].push('"'),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(String::new()),
            letter => cells[cell].push(letter),
        }
    }
    cells
}

/// Reads base64 in the alphabet of URLs, without padding.
fn unpadded_base64(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).unwrap_or_default());
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

/// Reads the programs out of `entry_points.txt`.
fn parse_entry_points(text: &str) -> Vec<Program> {
    let mut programs = Vec::new();
    let mut is_of_programs = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_of_programs = matches!(section.trim(), "console_scripts" | "gui_scripts");
        } else if is_of_programs
            && !line.starts_with(['#', ';'])
            && let Some((name, object)) = line.split_once('=')
            // Extras after the object are history.
            && let Some((module, call)) = object.split('[').next().unwrap_or_default().split_once(':')
        {
            let [name, module, call] = [name, module, call].map(|word| word.trim().to_owned());
            programs.push(Program { name, module, call });
        }
    }
    programs
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Cursor, Write as _};

    use super::*;

    /// A wheel in memory: files by name; `RECORD` is made, unless it is given.
    pub(crate) fn wheel(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, content) in files {
            writer.start_file(*name, options).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    const DESCRIPTION: [(&str, &[u8]); 2] = [
        ("a-1.dist-info/METADATA", b"Metadata-Version: 2.1\nName: A\nVersion: 1\n"),
        ("a-1.dist-info/WHEEL", b"Wheel-Version: 1.0\n"),
    ];

    fn read(more: &[(&str, &[u8])]) -> Outcome<WheelFile<Cursor<Vec<u8>>>> {
        WheelFile::read(Cursor::new(wheel(&[&DESCRIPTION[..], more].concat())))
    }

    #[test]
    fn a_wheel_tells_what_it_is_and_where_its_files_belong() {
        let record = b"a.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n\"a,b.py\",,\n";
        let more: [(&str, &[u8]); 8] = [
            ("a.py", b""),
            ("a-1.data/purelib/b.py", b""),
            ("a-1.data/scripts/tool", b"#!python\n"),
            ("a-1.data/headers/a.h", b""),
            ("a-1.data/data/share/a", b""),
            (
                "a-1.dist-info/entry_points.txt",
                b"[x]\nn = m:f\n[console_scripts]\n# c\ntool-2 = a.b:c.d [extra]\n",
            ),
            ("a/_vendor/b-1.dist-info/WHEEL", b""),
            ("a-1.dist-info/RECORD", record),
        ];
        let mut read = read(&more).unwrap();
        assert_eq!(read.package, Package { name: "a".into(), version: "1".into() });
        let of = |name: &str| read.members.iter().find(|member| member.name == name).unwrap();
        assert_eq!(of("a.py").place, Place::Packages("a.py".into()));
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of("a.py").sha256.as_deref(), Some(empty));
        assert_eq!(of("a-1.data/purelib/b.py").place, Place::Packages("b.py".into()));
        assert_eq!(of("a-1.data/scripts/tool").place, Place::Programs("tool".into()));
        assert_eq!(of("a-1.data/headers/a.h").place, Place::Headers("a.h".into()));
        assert_eq!(of("a-1.data/data/share/a").place, Place::Data("share/a".into()));
        let program = Program { name: "tool-2".into(), module: "a.b".into(), call: "c.d".into() };
        assert_eq!(read.programs, [program]);
        assert_eq!(read.digest("a.py").unwrap(), empty);
        assert_eq!(read.content("a-1.data/scripts/tool", 100).unwrap(), b"#!python\n");
    }

    #[test]
    fn what_would_leave_the_environment_or_is_no_wheel_is_refused() {
        let record: (&str, &[u8]) = ("a-1.dist-info/RECORD", b"");
        for name in ["../a", "/etc/passwd", "x/../../a", "a-1.data/other/x", "a-1.data/data/../../x"] {
            assert!(read(&[record, (name, b"")]).is_err(), "{name}");
        }
        assert!(read(&[]).is_err(), "no RECORD");
        assert!(read(&[record, ("b-1.dist-info/WHEEL", b"")]).is_err(), "two descriptions");
        assert!(WheelFile::read(Cursor::new(b"no archive".to_vec())).is_err());
    }

    #[test]
    fn a_file_that_unpacks_to_more_than_the_archive_names_is_refused() {
        let record: (&str, &[u8]) = ("a-1.dist-info/RECORD", b"");
        let mut bytes = wheel(&[&DESCRIPTION[..], &[record, ("a.py", b"12345678")]].concat());
        // The last entry of the central directory; its size stands 24 bytes behind the start.
        let entry = bytes.windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
        assert_eq!(bytes[entry + 24], 8);
        assert!(WheelFile::read(Cursor::new(bytes.clone())).unwrap().digest("a.py").is_ok());
        bytes[entry + 24] = 7;
        let failure = WheelFile::read(Cursor::new(bytes)).unwrap().digest("a.py").unwrap_err();
        assert!(failure.chain().join(": ").contains("more than the 7 bytes"), "{:?}", failure.chain());
    }

    #[test]
    fn cells_and_digests_are_read_as_installers_write_them() {
        assert_eq!(cells("\"a,\"\"b\"\".py\",sha256=x,3"), ["a,\"b\".py", "sha256=x", "3"]);
        assert_eq!(unpadded_base64("_-8").unwrap(), [0xff, 0xef]);
        assert_eq!(unpadded_base64("AQID").unwrap(), [1, 2, 3]);
        assert_eq!(unpadded_base64("a+b"), None);
    }
}
