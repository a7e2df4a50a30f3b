//! The text of a requirements file: from bytes to checked lines. Pure.
//!
//! Unknown lines are refused: an unchecked option could send uv to another index. Source: pip's "Requirements File
//! Format", PEP 508.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_system::error::{Failure, Outcome};
use refresh_system::text::normal_name;

/// Options that can be on a separate line.
const GLOBAL_OPTIONS: [&str; 5] =
    ["--pre", "--prefer-binary", "--require-hashes", "--no-binary", "--only-binary"];
/// Options that can follow a requirement.
const REQUIREMENT_OPTIONS: [&str; 1] = ["--hash"];
/// Options that send uv elsewhere.
const REDIRECTIONS: [&str; 9] = [
    "-i",
    "--index-url",
    "--pypi-url",
    "--extra-index-url",
    "--no-index",
    "-f",
    "--find-links",
    "--trusted-host",
    "--index",
];
/// The index that pip and uv use by default.
const DEFAULT_INDEX: &str = "https://pypi.org/simple";
/// The algorithms of hashes that can verify a file.
const ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];
/// Endings by which pip treats a bare word as a file.
const ARCHIVES: [&str; 7] = [".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar"];

/// One line that is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The number of its first line, counted from 1.
    pub number: usize,
    /// Its text, without comments and line breaks.
    pub text: String,
    /// Its meaning.
    pub meaning: LineKind,
}

/// The meaning of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LineKind {
    /// A package to install.
    Package(Requirement),
    /// Another file of requirements, relative to this one.
    Include(PathBuf),
    /// A file of constraints, relative to this one.
    Constrain(PathBuf),
    /// A harmless option.
    Option,
}

/// A required package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The name in its normal form (lower case, dashes).
    pub name: String,
    /// The text after the name: extras, versions, URL, marker; may be empty.
    pub specification: String,
}

impl Requirement {
    /// Returns the extras of the package that are required, in their normal form (PEP 685).
    pub(crate) fn extras(&self) -> Vec<String> {
        let list = self.specification.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let names = list.map(|(list, _)| list.split(',')).into_iter().flatten();
        names.map(|name| normal_name(name.trim())).filter(|name| !name.is_empty()).collect()
    }
}

/// Reads a file; `shown` is its name in messages.
///
/// # Errors
/// The bytes are not text, or a line is not understood or not allowed for an application.
pub(crate) fn parse(bytes: &[u8], shown: &str) -> Outcome<Vec<Line>> {
    let text = decode(bytes).ok_or_else(|| {
        Failure::new(format!("{shown} is no text in UTF-8")).hint(format!("save {shown} as UTF-8"))
    })?;
    logical_lines(&text)
        .into_iter()
        .filter(|(_, text)| !names_default_index(text))
        .map(|(number, text)| {
            let meaning =
                meaning(&text).map_err(|why| Failure::new(format!("{shown}, line {number}: {why}")))?;
            Ok(Line { number, text, meaning })
        })
        .collect()
}

/// Returns whether a line names the default index. Many tools write this line; it changes nothing, because that index, or
/// the one that the host has set in its place, is used without it.
fn names_default_index(text: &str) -> bool {
    let url = option_value(text, "-i", "--index-url").unwrap_or_default();
    url.trim_start_matches('=').trim_end_matches('/') == DEFAULT_INDEX
}

/// Writes the lines with their original numbers. The installer reads exactly the checked lines, and its messages name
/// the right ones.
pub(crate) fn render(lines: &[Line]) -> Vec<u8> {
    let mut text = String::new();
    let mut at = 1;
    for line in lines {
        while at < line.number {
            text.push('\n');
            at += 1;
        }
        text.push_str(&line.text);
        text.push('\n');
        at += 1;
    }
    text.into_bytes()
}

/// Reads one requirement (PEP 508, or a bare URL).
///
/// # Errors
/// The sentence that gives the reason for the refusal.
pub(crate) fn requirement(text: &str) -> Result<Requirement, String> {
    let text = text.trim();
    if text.to_ascii_lowercase().contains("file:") {
        return Err(format!("{text:?} names a local file, which the requirements cannot contain"));
    }
    let plain = text.split(';').next().unwrap_or_default().trim();
    let (name_part, url) = match plain.split_once('@') {
        Some((name, url)) if !name.contains("://") => (name.trim(), Some(url.trim())),
        _ if plain.contains("://") => ("", Some(plain)),
        _ => (plain, None),
    };
    if let Some(url) = url {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| {
            !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
        }) {
            return Err(format!("{text:?} names a local path, which the requirements cannot contain"));
        }
        if name_part.is_empty() {
            return Ok(Requirement { name: url.to_owned(), specification: String::new() });
        }
    }
    let lower = name_part.to_ascii_lowercase();
    let is_path = name_part.starts_with(['.', '/', '~', '\\'])
        || name_part.contains('/')
        || ARCHIVES.iter().any(|ending| lower.ends_with(ending));
    if is_path {
        return Err(format!("{text:?} names a local path, which the requirements cannot contain"));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(text.len());
    let (name, specification) = text.split_at(end);
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !is_name {
        return Err(format!("{text:?} is not understood"));
    }
    let specification = specification.trim();
    if specification.starts_with('=') && !specification.starts_with("==") {
        return Err(format!("{text:?} is not understood: a version follows `==`"));
    }
    Ok(Requirement { name: normal_name(name), specification: specification.to_owned() })
}

/// Checks that a package from a URL can be verified: it is a wheel, with its hash in the URL or in `options`.
///
/// # Errors
/// The sentence that gives the reason for the refusal.
pub(crate) fn require_hash(package: &Requirement, options: &str) -> Result<(), String> {
    let url = match package.specification.split_once('@') {
        Some((before, url)) if before.trim().is_empty() || before.trim_start().starts_with('[') => url,
        _ if package.name.contains("://") => &package.name,
        _ => return Ok(()),
    };
    let url = url.split(" ;").next().unwrap_or(url).trim();
    let (place, fragment) = url.split_once('#').unwrap_or((url, ""));
    let is_web = place.starts_with("https://") || place.starts_with("http://");
    let has_hash = !hashes_of_fragment(fragment).is_empty() || !hashes_of(options).is_empty();
    if is_web && Path::new(place).extension().is_some_and(|ending| ending == "whl") && has_hash {
        return Ok(());
    }
    Err(format!(
        "{url:?} cannot be verified: only a release of the package index can, or the URL of a wheel that ends in \
         #sha256=… (or has a --hash)"
    ))
}

/// Returns the hashes in the fragment of a URL, as `sha256:…`.
pub(crate) fn hashes_of_fragment(fragment: &str) -> Vec<String> {
    let pairs = fragment.split('&').filter_map(|part| part.trim().split_once('='));
    let known = pairs.filter(|(name, _)| ALGORITHMS.contains(name));
    known.map(|(name, digits)| format!("{name}:{}", digits.to_ascii_lowercase())).collect()
}

/// Returns all hashes in the `--hash` options of a line, as `sha256:…`, sorted.
pub(crate) fn hashes_of(line: &str) -> Vec<String> {
    let mut words = line.split_whitespace();
    let mut hashes = Vec::new();
    while let Some(word) = words.next() {
        let hash = match word.strip_prefix("--hash") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        hashes.extend(hash.map(str::to_ascii_lowercase));
    }
    hashes.sort();
    hashes.dedup();
    hashes
}

/// Refuses a hash of another algorithm: it verifies nothing.
fn check_hashes(line: &str) -> Result<(), String> {
    let is_known = |hash: &String| hash.split_once(':').is_some_and(|(name, _)| ALGORITHMS.contains(&name));
    match hashes_of(line).iter().find(|hash| !is_known(hash)) {
        None => Ok(()),
        Some(hash) => Err(format!("{hash:?} is no hash that verifies a file: use sha256, sha384 or sha512")),
    }
}

fn decode(bytes: &[u8]) -> Option<String> {
    // PowerShell writes UTF-16 with a mark in front; pip reads it, so this program reads it too.
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16(&units).ok()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok().map(str::to_owned),
        _ => std::str::from_utf8(bytes).ok().map(str::to_owned),
    }
    .filter(|text| !text.contains('\0'))
}

/// Joins continued lines and removes comments and blank lines, like pip.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (index, line) in text.split('\n').enumerate() {
        let is_comment = line.trim_start().starts_with('#');
        let (number, mut joined) = open.take().unwrap_or((index + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(continued) if !is_comment => {
                joined.push_str(continued.trim_matches('\\'));
                open = Some((number, joined));
            }
            _ => {
                joined.push_str(if is_comment { "" } else { line });
                lines.push((number, joined));
            }
        }
    }
    lines.extend(open);
    lines
        .into_iter()
        .map(|(number, line)| (number, without_comment(&line).trim().to_owned()))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// Removes a comment: a `#` at the start or after white space; elsewhere it is part of a URL.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

fn meaning(text: &str) -> Result<LineKind, String> {
    if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(format!("it contains the character {control:?}"));
    }
    if let Some(path) = option_value(text, "-r", "--requirement") {
        return Ok(LineKind::Include(include(path)?));
    }
    if let Some(path) = option_value(text, "-c", "--constraint") {
        return Ok(LineKind::Constrain(include(path)?));
    }
    if text.starts_with('-') {
        for word in text.split_whitespace().filter(|word| word.starts_with('-')) {
            allowed(word, &GLOBAL_OPTIONS)?;
        }
        return Ok(LineKind::Option);
    }
    let options_at = text.find(" -").or_else(|| text.find("\t-")).unwrap_or(text.len());
    let (package, options) = text.split_at(options_at);
    for word in options.split_whitespace().filter(|word| word.starts_with('-')) {
        allowed(word, &REQUIREMENT_OPTIONS)?;
    }
    let package = requirement(package)?;
    check_hashes(options)?;
    require_hash(&package, options)?;
    Ok(LineKind::Package(package))
}

/// Returns the value of an option in any of its notations; `None` if the line is not that option.
fn option_value<'a>(text: &'a str, short: &str, long: &str) -> Option<&'a str> {
    if let Some(rest) = text.strip_prefix(long) {
        return rest.strip_prefix(['=', ' ', '\t']).map(str::trim);
    }
    // `-rother.txt` is the same as `-r other.txt`.
    text.strip_prefix(short).map(str::trim)
}

fn include(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() || path.contains(char::is_whitespace) || path.contains(['"', '\'', '$']) {
        return Err(format!("{path:?} is not one plain path"));
    }
    if path.contains("://") || path.to_ascii_lowercase().starts_with("file:") {
        return Err(format!("{path:?} is a URL; only files of the same tree can be included"));
    }
    Ok(PathBuf::from(path))
}

fn allowed(word: &str, options: &[&str]) -> Result<(), String> {
    let name = word.split('=').next().unwrap_or(word);
    if options.contains(&name) {
        return Ok(());
    }
    let redirects = REDIRECTIONS.contains(&name)
        || (!name.starts_with("--") && (name.starts_with("-i") || name.starts_with("-f")));
    if redirects {
        let setting = match name {
            "--extra-index-url" | "--index" => "indexes = { PACKAGE = \"URL\" } under [python]",
            _ => "python.index_url",
        };
        return Err(format!(
            "{name} would send uv to another index, which only the host may do: remove it, and set {setting} in the \
             host's refresh.toml"
        ));
    }
    if name.starts_with("-e") || name == "--editable" {
        return Err(format!(
            "{name} would install a source tree in place, which the requirements cannot contain"
        ));
    }
    Err(format!("the option {name} cannot be used here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &[u8]) -> Vec<String> {
        parse(source, "f").unwrap().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn comments_blank_lines_line_endings_and_marks_do_not_count() {
        let plain = texts(b"six==1.17.0\nidna\n");
        assert_eq!(texts(b"\xef\xbb\xbf# c\r\n\r\nsix==1.17.0  # why\r\n idna\r\n"), plain);
        let wide: Vec<u8> = [0xfeff_u16]
            .into_iter()
            .chain("six==1.17.0\r\nidna".encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(texts(&wide), plain);
        assert!(parse(b"\xff\xff", "f").is_err());
    }

    #[test]
    fn a_line_that_names_the_default_index_changes_nothing() {
        let plain = texts(b"six==1.17.0\n");
        for line in [
            "-i https://pypi.org/simple",
            "--index-url=https://pypi.org/simple/",
            "-ihttps://pypi.org/simple",
        ] {
            assert_eq!(texts(format!("{line}\nsix==1.17.0\n").as_bytes()), plain, "{line}");
        }
        for line in [
            "-i https://pypi.org/simple --pre",
            "-i https://pypi.org.example/simple",
            "--extra-index-url https://pypi.org/simple",
        ] {
            assert!(parse(line.as_bytes(), "f").is_err(), "{line}");
        }
    }

    #[test]
    fn continued_lines_are_joined_and_keep_the_number_of_the_first() {
        let lines = parse(b"\nsix==1 \\\n  --hash=sha256:ab \\\n  --hash=sha256:cd\nidna", "f").unwrap();
        assert_eq!(lines[0].text, "six==1   --hash=sha256:ab   --hash=sha256:cd");
        assert_eq!((lines[0].number, lines[1].number), (2, 5));
        assert_eq!(render(&lines), b"\nsix==1   --hash=sha256:ab   --hash=sha256:cd\n\n\nidna\n");
        assert_eq!(parse(&render(&lines), "f").unwrap(), lines);
    }

    #[test]
    fn names_and_specifications_are_distinguished() {
        let read = |text| requirement(text).map(|found| (found.name, found.specification)).unwrap();
        assert_eq!(read("Foo_Bar.baz"), ("foo-bar-baz".into(), String::new()));
        assert_eq!(
            read("uvicorn[standard]>=0.30,<1; python_version >= '3.9'"),
            ("uvicorn".into(), "[standard]>=0.30,<1; python_version >= '3.9'".into())
        );
        assert_eq!(read("a @ https://x.example/a.whl"), ("a".into(), "@ https://x.example/a.whl".into()));
        assert_eq!(read("git+https://x.example/a@v1#egg=a").0, "git+https://x.example/a@v1#egg=a");
    }

    #[test]
    fn includes_are_read_in_every_spelling() {
        for text in
            ["-r a/b.txt", "-ra/b.txt", "--requirement a/b.txt", "--requirement=a/b.txt", "-r\ta/b.txt"]
        {
            assert_eq!(meaning(text), Ok(LineKind::Include("a/b.txt".into())), "{text}");
        }
        assert_eq!(meaning("-c c.txt"), Ok(LineKind::Constrain("c.txt".into())));
        assert_eq!(meaning("--constraint=c.txt"), Ok(LineKind::Constrain("c.txt".into())));
    }

    #[test]
    fn lines_that_leave_the_definition_or_redirect_the_index_are_refused() {
        for bad in [
            "--index-url https://x",
            "-i https://x",
            "-ihttps://x",
            "--extra-index-url=https://x",
            "--index https://x",
            "--find-links x",
            "-f x",
            "-fx",
            "--trusted-host x",
            "--no-index",
            "--pre --index-url https://x",
            "six --index-url https://x",
            "-e .",
            "--editable=.",
            "./local",
            "../x",
            "/abs/x.whl",
            "x.whl",
            "a/b",
            "~/x",
            "file:///x",
            "six @ file:///x",
            "six @ ../x",
            "git+file:///x",
            "-r https://x/y.txt",
            "-r",
            "-r 'a b'",
            "--unknown",
            "--index-u https://x",
            "six --unknown",
            "-r a --pre",
            "[x]",
            "==1",
            "x = 1",
            "git+https://x/a@v1",
            "a @ git+https://x/a@v1",
            "a @ https://x/a-1-py3-none-any.whl",
            "a @ https://x/a-1.tar.gz#sha256=ab",
            "a[b] @ ssh://x/a-1-py3-none-any.whl#sha256=ab",
            "six --hash=md5:ab",
            "a @ https://x/a-1-py3-none-any.whl#md5=ab",
        ] {
            let failure = parse(format!("idna\n{bad}\n").as_bytes(), "requirements.txt").unwrap_err();
            assert!(failure.summary().starts_with("requirements.txt, line 2: "), "{bad}: {failure}");
        }
        for good in [
            "--pre",
            "--only-binary=:all:",
            "--no-binary :none:",
            "six --hash=sha256:ab",
            "six --hash sha384:ab --hash=sha512:cd",
            "--require-hashes",
            "a @ https://x/a-1-py3-none-any.whl#sha256=ab",
            "a @ https://x/a-1-py3-none-any.whl --hash=sha256:ab",
            "a @ https://x/a-1-py3-none-any.whl#sha256=ab ; os_name == 'x'",
        ] {
            assert!(meaning(good).is_ok(), "{good}");
        }
    }
}
