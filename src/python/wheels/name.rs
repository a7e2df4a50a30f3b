//! What the name of a wheel says of it (PEP 427). Pure.

use crate::python::requirements::normal_name;

/// The longest name of a file that is believed to be one; file systems allow 255 bytes.
const LONGEST: usize = 250;

/// The name of a wheel, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelName {
    /// The distribution's name in its normal form.
    pub name: String,
    /// The version, as the name writes it.
    pub version: String,
    /// What tells builds of one version apart; the higher one counts.
    build: (u64, String),
    /// Where it runs: `python-abi-platform`, each combination of what it names.
    tags: Vec<String>,
}

impl WheelName {
    /// Takes the name of a file apart; `None` where it is not that of a wheel.
    pub fn parse(file: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+!".contains(c);
        if file.len() > LONGEST || file.starts_with('.') || !file.chars().all(plain) {
            return None;
        }
        let parts: Vec<&str> = file.strip_suffix(".whl")?.split('-').collect();
        let (name, version, build, [python, abi, platform]) = match *parts.as_slice() {
            [name, version, python, abi, platform] => (name, version, "", [python, abi, platform]),
            [name, version, build, python, abi, platform] => (name, version, build, [python, abi, platform]),
            _ => return None,
        };
        if parts.iter().any(|part| part.is_empty()) || !version.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let digits = build.find(|c: char| !c.is_ascii_digit()).unwrap_or(build.len());
        let (number, rest) = build.split_at(digits);
        let number = if build.is_empty() { 0 } else { number.parse().ok()? };
        let mut tags = Vec::new();
        for python in python.split('.') {
            for abi in abi.split('.') {
                tags.extend(platform.split('.').map(|platform| format!("{python}-{abi}-{platform}")));
            }
        }
        let build = (number, rest.to_owned());
        Some(Self { name: normal_name(name), version: version.to_owned(), build, tags })
    }

    /// Tells whether it is a wheel of this distribution.
    pub fn is_of(&self, name: &str, version: &str) -> bool {
        self.name == name && plain_version(&self.version) == plain_version(version)
    }

    /// Returns how well it fits a platform whose tags are given with the best first; `None` where it does not run there.
    /// The smaller one is the better one.
    pub fn rank(&self, platform: &[String]) -> Option<(usize, std::cmp::Reverse<(u64, String)>)> {
        let best = platform.iter().position(|tag| self.tags.contains(tag))?;
        Some((best, std::cmp::Reverse(self.build.clone())))
    }
}

/// A version in a form in which equal ones look the same, as far as indexes and file names write them differently:
/// capital letters, separators, zeros at the end of the release, a `v` in front.
fn plain_version(version: &str) -> String {
    let lower = version.trim().to_ascii_lowercase().replace('_', "-");
    let lower = lower.strip_prefix('v').unwrap_or(&lower);
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '!').unwrap_or(lower.len());
    let (release, rest) = lower.split_at(end);
    let mut release = release.trim_end_matches('.');
    while let Some(shorter) = release.strip_suffix(".0") {
        release = shorter;
    }
    // The local part keeps its mark; elsewhere separators say nothing.
    let (public, local) = rest.split_once('+').map_or((rest, ""), |(public, local)| (public, local));
    let public: String = public.chars().filter(char::is_ascii_alphanumeric).collect();
    let local = local.replace('-', ".");
    if local.is_empty() { format!("{release}{public}") } else { format!("{release}{public}+{local}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str) -> WheelName {
        WheelName::parse(file).unwrap()
    }

    #[test]
    fn a_name_is_taken_apart_and_what_is_none_is_refused() {
        let six = parse("six-1.17.0-py2.py3-none-any.whl");
        assert!(six.is_of("six", "1.17.0") && six.is_of("six", "1.17") && !six.is_of("six", "1.16.0"));
        assert_eq!(six.tags, ["py2-none-any", "py3-none-any"]);
        assert!(parse("Foo_Bar-1.0rc1-1a-cp311-cp311-linux_x86_64.whl").is_of("foo-bar", "1.0.rc1"));
        assert!(parse("torch-2.1.0+cpu-cp311-cp311-linux_x86_64.whl").is_of("torch", "2.1.0+cpu"));
        assert!(!parse("torch-2.1.0+cpu-cp311-cp311-linux_x86_64.whl").is_of("torch", "2.1.0"));
        for bad in [
            "six-1.17.0.tar.gz",
            "six.whl",
            "six-1.17.0-py3-none.whl",
            "six--py3-none-any.whl",
            "six-x-py3-none-any.whl",
            ".six-1.0-py3-none-any.whl",
            "six-1.0-py3-none-a/b.whl",
            "six-1.0-py3-none-a\nb.whl",
            "a-b-1.0-x-py3-none-any.whl",
        ] {
            assert_eq!(WheelName::parse(bad), None, "{bad}");
        }
        assert_eq!(WheelName::parse(&format!("{}-1-py3-none-any.whl", "a".repeat(300))), None);
    }

    #[test]
    fn the_most_specific_wheel_is_the_best_one_and_one_for_elsewhere_is_none() {
        let platform =
            ["cp311-cp311-manylinux_2_17_x86_64", "cp311-none-any", "py3-none-any"].map(str::to_owned);
        let own = parse("x-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl").rank(&platform);
        let any = parse("x-1-py3-none-any.whl").rank(&platform);
        let again = parse("x-1-2-py3-none-any.whl").rank(&platform);
        assert!(own.is_some() && own < any && again < any);
        assert_eq!(parse("x-1-cp311-cp311-win_amd64.whl").rank(&platform), None);
    }
}
