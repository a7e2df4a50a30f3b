//! The part of `pyproject.toml` that defines an environment: dependencies, extras, groups, `requires-python`. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::normal_name;

use super::requirements::{self, Line, LineKind};

/// The requirements of a project.
#[derive(Debug, Default)]
pub(super) struct Project {
    /// Which versions of Python it accepts.
    pub(super) requires_python: Option<String>,
    /// Its dependencies with those of the chosen extras and groups, as lines of a requirements file.
    pub(super) lines: Vec<Line>,
    /// Remarks for the report.
    pub(super) notes: Vec<String>,
    /// Whether only the build of the project finds its dependencies (`dynamic`).
    pub(super) is_dynamic: bool,
    /// Settings of tools that would change the installed packages, and that are not read.
    pub(super) unread: Vec<Unread>,
}

/// A setting of a tool that would change the packages that a resolution installs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unread {
    /// Its name in `pyproject.toml`.
    pub(super) setting: String,
    /// The package that it takes from an index of its choice, which the host can name too.
    pub(super) of_index: Option<String>,
}

/// Reads a project; `None` if the file has no project.
///
/// # Errors
/// It is not understood, or an extra or group does not exist.
pub(super) fn read(bytes: &[u8], extras: &[String], groups: &[String]) -> Outcome<Option<Project>> {
    let text = std::str::from_utf8(bytes).context(|| "pyproject.toml is no text in UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let read: File = toml::from_str(text).context(|| "pyproject.toml cannot be read".to_owned())?;
    let mut reading = Reading { text, file: &read, found: Project::default(), open: Vec::new() };
    for group in groups {
        reading.group(group)?;
    }
    let Some(table) = &read.project else {
        return match extras.first() {
            Some(extra) => Err(missing("extra", extra, std::iter::empty())),
            None if groups.is_empty() => Ok(None),
            None => Ok(Some(reading.found)),
        };
    };
    if table.dynamic.iter().any(|name| name == "dependencies") {
        let note = "pyproject.toml leaves its dependencies to the build (dynamic): it adds no packages";
        reading.found.notes.push(note.to_owned());
        reading.found.is_dynamic = true;
    }
    reading.found.requires_python.clone_from(&table.requires_python);
    reading.take(&table.dependencies)?;
    for extra in extras {
        reading.extra(extra)?;
    }
    reading.found.unread = unread(&read.tool, &reading.found.lines);
    Ok(Some(reading.found))
}

/// Returns the settings of tools that would change the packages of these lines.
fn unread(tool: &toml::Table, lines: &[Line]) -> Vec<Unread> {
    let at = |tool_name: &str, key: &str| tool.get(tool_name).and_then(|table| table.get(key));
    let is_required = |name: &str| {
        let name = normal_name(name);
        lines.iter().any(|line| matches!(&line.meaning, LineKind::Package(package) if package.name == name))
    };
    let mut found = Vec::new();
    for key in ["constraint-dependencies", "override-dependencies", "exclude-dependencies"] {
        if at("uv", key).and_then(toml::Value::as_array).is_some_and(|list| !list.is_empty()) {
            found.push(Unread { setting: format!("tool.uv.{key}"), of_index: None });
        }
    }
    for (tool, key, by_index) in [("uv", "sources", "index"), ("poetry", "dependencies", "source")] {
        let table = at(tool, key).and_then(toml::Value::as_table);
        for (name, value) in table.into_iter().flatten().filter(|(name, _)| is_required(name)) {
            let all = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let names = |source: &str| all.iter().any(|one| one.get(source).is_some());
            let elsewhere = ["git", "url", "path", "file", "workspace"].into_iter().any(names);
            if elsewhere || names(by_index) {
                let of_index = (!elsewhere).then(|| normal_name(name));
                found.push(Unread { setting: format!("tool.{tool}.{key}.{name}"), of_index });
            }
        }
    }
    found
}

/// The state of reading the tables.
struct Reading<'a> {
    text: &'a str,
    file: &'a File,
    found: Project,
    /// The extras and groups that are being read, each named by the one before.
    open: Vec<String>,
}

impl Reading<'_> {
    fn take(&mut self, listed: &[Spanned<String>]) -> Outcome<()> {
        listed.iter().try_for_each(|text| self.add(text.get_ref(), text.span().start))
    }

    fn add(&mut self, text: &str, offset: usize) -> Outcome<()> {
        let number = self.text[..offset].matches('\n').count() + 1;
        let refuse = |why: &str| Failure::new(format!("pyproject.toml, line {number}: {why}"));
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.contains(" #") || text.contains(" -") || text.ends_with('\\') || text.starts_with('#') {
            return Err(refuse(&format!("{text:?} is not a requirement")));
        }
        let package = requirements::requirement(&text).map_err(|why| refuse(&why))?;
        requirements::require_hash(&package, "").map_err(|why| refuse(&why))?;
        // An extra may name others of the same project.
        let own_name = self.file.project.as_ref().and_then(|project| project.name.as_deref());
        if own_name.is_some_and(|name| normal_name(name) == package.name) {
            let inner = package.specification.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let names = inner.map(|(names, _)| names.split(',').map(str::trim)).into_iter().flatten();
            return names.filter(|name| !name.is_empty()).try_for_each(|name| self.extra(name));
        }
        // The project may list several on one line; a requirements file cannot.
        let number = number.max(self.found.lines.last().map_or(0, |line: &Line| line.number) + 1);
        self.found.lines.push(Line { number, text, meaning: LineKind::Package(package) });
        Ok(())
    }

    fn extra(&mut self, name: &str) -> Outcome<()> {
        let file = self.file;
        let tables = file.project.as_ref().map(|project| &project.optional_dependencies);
        let mut all = tables.into_iter().flatten();
        let known = all.find(|(known, _)| normal_name(known) == normal_name(name));
        let Some((_, listed)) = known else {
            let names = tables.into_iter().flat_map(BTreeMap::keys);
            return Err(missing("extra", name, names));
        };
        self.enter(format!("[{}]", normal_name(name)), |reading| reading.take(listed))
    }

    fn group(&mut self, name: &str) -> Outcome<()> {
        let file = self.file;
        let known = file.dependency_groups.iter().find(|(known, _)| normal_name(known) == normal_name(name));
        let Some((_, entries)) = known else {
            return Err(missing("group", name, file.dependency_groups.keys()));
        };
        self.enter(normal_name(name), |reading| {
            entries.iter().try_for_each(|entry| match entry.get_ref() {
                Entry::Requirement(text) => reading.add(text, entry.span().start),
                Entry::Include { include_group } => reading.group(include_group),
            })
        })
    }

    fn enter(&mut self, name: String, act: impl FnOnce(&mut Self) -> Outcome<()>) -> Outcome<()> {
        if self.open.contains(&name) {
            let circle = self.open.join(" -> ");
            return Err(Failure::new(format!("pyproject.toml names itself in a circle: {circle} -> {name}")));
        }
        self.open.push(name);
        act(self)?;
        self.open.pop();
        Ok(())
    }
}

fn missing<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> Failure {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Failure::new(format!("pyproject.toml has no {what} {name:?}; there is: {known}"))
        .hint(format!("correct python.{what}s in the host's refresh.toml, or {what}s in the application's"))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    project: Option<ProjectTable>,
    #[serde(default)]
    dependency_groups: BTreeMap<String, Vec<Spanned<Entry>>>,
    #[serde(default)]
    tool: toml::Table,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ProjectTable {
    name: Option<String>,
    requires_python: Option<String>,
    #[serde(default)]
    dependencies: Vec<Spanned<String>>,
    #[serde(default)]
    optional_dependencies: BTreeMap<String, Vec<Spanned<String>>>,
    #[serde(default)]
    dynamic: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Requirement(String),
    Include {
        #[serde(rename = "include-group")]
        include_group: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = "[project]\nname = 'x'\ndependencies = ['six']\n\
        [project.optional-dependencies]\nweb = ['flask']\nAll_Of = ['x[web]', 'idna']\n\
        [dependency-groups]\ndev = ['ruff', { include-group = 'Test.Base' }]\ntest-base = ['pytest']\n\
        loop = [{ include-group = 'loop' }]\n";

    fn names(extras: &[&str], groups: &[&str]) -> Outcome<Vec<String>> {
        let [extras, groups] =
            [extras, groups].map(|all| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        let read = read(PROJECT.as_bytes(), &extras, &groups)?.unwrap();
        let mut numbers = read.lines.iter().map(|line| line.number);
        assert!(numbers.clone().skip(1).all(|number| number > numbers.next().unwrap()));
        Ok(read.lines.into_iter().map(|line| line.text).collect())
    }

    #[test]
    fn extras_and_groups_add_what_they_name() {
        assert_eq!(names(&[], &[]).unwrap(), ["six"]);
        assert_eq!(names(&["all-of"], &[]).unwrap(), ["six", "flask", "idna"]);
        assert_eq!(names(&["web"], &["dev"]).unwrap(), ["ruff", "pytest", "six", "flask"]);
    }

    #[test]
    fn settings_of_tools_that_would_change_the_packages_are_named() {
        let unread = |tools: &str| {
            let text = format!("[project]\nname = 'x'\ndependencies = ['My_Lib', 'six']\n{tools}");
            let unread = read(text.as_bytes(), &[], &[]).unwrap().unwrap().unread;
            unread.into_iter().map(|it| (it.setting, it.of_index)).collect::<Vec<_>>()
        };
        for (tools, setting, of_index) in [
            ("[tool.uv]\nconstraint-dependencies = ['six<1']\n", "tool.uv.constraint-dependencies", None),
            ("[tool.uv]\noverride-dependencies = ['six<1']\n", "tool.uv.override-dependencies", None),
            ("[tool.uv]\nexclude-dependencies = ['six']\n", "tool.uv.exclude-dependencies", None),
            ("[tool.uv.sources]\nmy-lib = { git = 'https://h/x' }\n", "tool.uv.sources.my-lib", None),
            ("[tool.uv.sources]\nsix = { index = 'i' }\n", "tool.uv.sources.six", Some("six")),
            ("[tool.uv.sources]\nsix = [{ index = 'i' }, { path = 'p' }]\n", "tool.uv.sources.six", None),
            (
                "[tool.poetry.dependencies]\nmy-lib = { path = 'x' }\n",
                "tool.poetry.dependencies.my-lib",
                None,
            ),
        ] {
            assert_eq!(unread(tools), [(setting.to_owned(), of_index.map(str::to_owned))], "{tools}");
        }
        for tools in [
            "[tool.uv]\nconstraint-dependencies = []\n",
            "[tool.uv.sources]\nother = { workspace = true }\n",
            "[tool.poetry.dependencies]\nsix = '^1'\nmy-lib = { version = '*', optional = true }\n",
        ] {
            assert_eq!(unread(tools), [], "{tools}");
        }
    }

    #[test]
    fn a_missing_extra_or_group_is_refused_with_the_existing_ones() {
        let extra = names(&["nothing"], &[]).unwrap_err();
        assert_eq!(extra.summary(), "pyproject.toml has no extra \"nothing\"; there is: All_Of, web");
        assert!(names(&[], &["nothing"]).unwrap_err().summary().contains("there is: dev, loop, test-base"));
        assert!(names(&[], &["loop"]).unwrap_err().summary().contains("in a circle"));
    }
}
