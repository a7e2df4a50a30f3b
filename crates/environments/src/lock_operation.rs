//! The operation that makes a lock: it reads the application's own lock; uv resolves everything else.
//!
//! The application's own lock is binding. Everything else is resolved as of the date of the definition: another machine
//! gets the same result later. Additions of the host (`python.also`) never change the locked packages of the
//! application.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_programs::process::{ChildEnd, Program};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::normal_name;
use refresh_system::{clock, disk};

use super::author_hashes::{author_hashes, hashed_lines, pinned_lines};
use super::definitions::Definitions;
use super::install_error::{self, InstallErrorKind};
use super::interpreter::Interpreter;
use super::lock::{Form, Lock, Origin};
use super::locked::Locked;
use super::project_lockfile::{self, ProjectLockfile, ProjectLockfileForm};
use super::pylock::{self, Pylock};
use super::requirements::LineKind;
use super::resolution_checks;
use super::uv::{self, Network};
use super::uv_operation::{Setup, UvOperation};

/// The operation.
pub(super) const OPERATION: &str = "python-lock";

/// The reason why a cutoff has no effect with some indexes.
const NO_UPLOAD_TIMES: &str = "the package index gives no upload times";

/// The remark on a lock that was made without the index.
const FROM_CACHE: &str = "the package index cannot be reached; it was resolved from what uv has in its cache";

/// Makes the lock of a definition.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LockRequest {
    pub(super) setup: Setup,
    /// The key that names the lock.
    pub(super) key: String,
    pub(super) definitions: Definitions,
    pub(super) interpreter: Interpreter,
    /// Releases after this instant do not count.
    pub(super) cutoff: Option<jiff::Timestamp>,
    /// Whether all releases until now count.
    pub(super) upgrade: bool,
}

/// Performs the operation.
pub(super) fn handle(request: &LockRequest) -> Outcome<Lock> {
    let binary = request.definitions.binary_options();
    resolution_checks::refuse_source(&binary, request.setup.allow_source)?;
    UvOperation::within(&request.setup, &format!("lock-{}", request.key), |operation| {
        let lock = Locking { operation, request, definitions: &request.definitions }.lock()?;
        lock.with_binary(binary)
    })
}

/// The making of one lock.
struct Locking<'a> {
    operation: &'a UvOperation<'a>,
    request: &'a LockRequest,
    definitions: &'a Definitions,
}

/// The result of uv.
#[derive(Default)]
struct Resolution {
    document: String,
    /// Releases in it that were withdrawn by their authors.
    yanked: Vec<String>,
    /// Packages and the extras that they do not have.
    unknown_extras: Vec<(String, String)>,
    /// Whether the index was unreachable.
    from_cache: bool,
}

/// Why a definition does not resolve.
struct Unresolved {
    /// The error kind of uv; `None` if something else ended it.
    kind: Option<InstallErrorKind>,
    /// Whether the index gives no upload times, which a cutoff needs.
    because_of_upload_times: bool,
    failure: Failure,
}

impl From<Failure> for Unresolved {
    fn from(failure: Failure) -> Self {
        Self { kind: None, because_of_upload_times: false, failure }
    }
}

/// How a definition is resolved.
struct ResolveMode {
    cutoff: Option<jiff::Timestamp>,
    not_reproducible: Option<String>,
}

impl ResolveMode {
    /// With the releases until the date of the definition.
    fn until(cutoff: jiff::Timestamp, now: jiff::Timestamp) -> Self {
        let ahead = (cutoff > now).then(|| "the requirements are dated in the future".to_owned());
        Self { cutoff: Some(cutoff), not_reproducible: ahead }
    }

    /// With all releases.
    fn free(why: &str) -> Self {
        Self { cutoff: None, not_reproducible: Some(why.to_owned()) }
    }

    /// With all releases until now, because a person requested it.
    fn upgrade(now: jiff::Timestamp) -> Self {
        let why = "it was upgraded on this machine; commit the lock, and it holds everywhere";
        Self { cutoff: Some(now), not_reproducible: Some(why.to_owned()) }
    }
}

impl Locking<'_> {
    fn lock(&self) -> Outcome<Lock> {
        if let Some(own) = &self.definitions.own_lock {
            return self.read(own);
        }
        resolution_checks::refuse_unread(self.definitions, &self.operation.setup.indexes)?;
        if !self.request.upgrade {
            return self.resolve();
        }
        let way = ResolveMode::upgrade(clock::now());
        self.resolve_once(&way).map_err(|unresolved| unresolved.failure)
    }

    /// Reads the application's own lock, and adds the additional requirements of the host.
    fn read(&self, own: &ProjectLockfile) -> Outcome<Lock> {
        let origin = Origin::Application { file: own.file().to_path_buf() };
        let context = || format!("the application's {} cannot be used", own.file().display());
        let key = &self.request.key;
        let lock = match &own.form {
            ProjectLockfileForm::Requirements => {
                let listed = pinned_lines(self.definitions);
                listed.and_then(|(packages, lines)| Lock::from_requirements(key, origin, packages, lines))
            }
            ProjectLockfileForm::Standard(text) => self.choose(text).and_then(|(extras, groups)| {
                Ok(Lock::from_pylock(key, origin, text)?.choosing(extras, groups))
            }),
            ProjectLockfileForm::Uv { lock, project } => {
                self.export(lock, project).and_then(|document| Lock::from_pylock(key, origin, document))
            }
        };
        let lock = lock.context(context)?;
        resolution_checks::refuse_unfit_lock(self.definitions, own, &lock)?;
        if self.definitions.also.is_empty() { Ok(lock) } else { self.with_also(&lock) }
    }

    /// Returns the selected extras and groups in the notation of a standard lock.
    fn choose(&self, text: &str) -> Outcome<(Vec<String>, Vec<String>)> {
        let lock = Pylock::parse(text)?;
        // The selection at the time of locking is in the lock without a name; the project has the name.
        let is_known_elsewhere = self.definitions.has_project;
        let find = |what: &str, chosen: &[String], known: &[String]| -> Outcome<Vec<String>> {
            if known.is_empty() && is_known_elsewhere {
                return Ok(Vec::new());
            }
            let find = |name: &String| {
                let found = known.iter().find(|known| normal_name(known) == normal_name(name));
                found.cloned().ok_or_else(|| {
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    Failure::new(format!("it has no {what} {name:?}; there is: {known}"))
                        .hint(format!("correct python.{what}s in the host's refresh.toml"))
                })
            };
            chosen.iter().map(find).collect()
        };
        Ok((
            find("extra", &self.definitions.extras, &lock.extras)?,
            find("group", &self.definitions.groups, &lock.dependency_groups)?,
        ))
    }

    /// Converts uv's lock into the standard form without the network. Checks that it fits the project.
    fn export(&self, lock: &str, project: &str) -> Outcome<String> {
        let directory = self.operation.scratch.join("project");
        disk::make_directory(&directory, 0o755)?;
        disk::write_unsynced(&directory.join(project_lockfile::UV), lock.as_bytes(), 0o644)?;
        disk::write_unsynced(&directory.join("pyproject.toml"), project.as_bytes(), 0o644)?;
        // With an empty cache and no network, the lock is the only source of uv.
        let mut program = uv::command(self.operation, Network::Unused)
            .args(["--no-cache", "export", "--locked", "--format", "pylock.toml", "--no-header"])
            .args(["--no-annotate", "--quiet", "--no-emit-project", "--no-default-groups", "--python"])
            .arg(&self.request.interpreter.path)
            .directory(&directory);
        for extra in &self.definitions.extras {
            program = program.arg("--extra").arg(extra);
        }
        for group in &self.definitions.groups {
            program = program.arg("--group").arg(group);
        }
        let registries = project_lockfile::registries(lock).into_iter();
        let program = registries.fold(program, |program, (name, value)| program.env(name, value));
        let exported = self.operation.runner.run(&program)?;
        if exported.succeeded() {
            return Ok(exported.text());
        }
        let network = &self.operation.setup.network;
        let failure = install_error::explain(&exported, "it does not fit pyproject.toml", network);
        Err(match project_lockfile::local_package(lock) {
            Some(local) => Failure::new(local)
                .because(failure)
                .hint("list its dependencies in [project] of the pyproject.toml at the root, and import it from app/")
                .hint("or publish it to a package index, and require a release of it"),
            None => failure.hint("run `uv lock` in the application's repository, and commit uv.lock"),
        })
    }

    /// Adds the additional requirements of the host to the application's own lock. The locked packages do not change.
    fn with_also(&self, lock: &Lock) -> Outcome<Lock> {
        let directory = self.operation.scratch.join("also");
        disk::make_directory(&directory, 0o755)?;
        let wanted = self.definitions.write_also(&directory)?;
        let limits: String = lock
            .packages
            .iter()
            .filter(|package| {
                lock.packages.iter().filter(|other| other.name == package.name).count() == 1
                    && package.url.is_none()
            })
            .map(|package| format!("{}=={}\n", package.name, package.version))
            .collect();
        let constraints = directory.join("lock.txt");
        disk::write_unsynced(&constraints, limits.as_bytes(), 0o644)?;
        let way = ResolveMode { cutoff: self.request.cutoff, not_reproducible: None };
        let (form, document) = lock.to_install();
        let resolve = |way: &ResolveMode| {
            let files = [PathBuf::from("-c"), constraints.clone(), wanted.clone()];
            self.compile(&files, form, way)
        };
        let more = match resolve(&way) {
            Err(limited) if limited.kind.is_some_and(InstallErrorKind::may_be_the_cutoff) => {
                resolve(&ResolveMode::free("")).map_err(|unresolved| unresolved.failure)
            }
            resolved => resolved.map_err(|unresolved| unresolved.failure),
        };
        let more = more.context(|| "what the host adds (python.also) does not fit".to_owned())?;
        resolution_checks::refuse_withdrawn(&more.yanked)?;
        resolution_checks::refuse_unknown_extras(self.definitions, &more.unknown_extras)?;
        let more = more.document;
        let (key, origin) = (&self.request.key, lock.origin.clone());
        let added = match form {
            Form::Pylock => Lock::from_pylock(key, origin, pylock::merged(&document, &more)?)?,
            Form::Requirements => {
                let (more, lines) = hashed_lines(&more, &BTreeMap::new())?;
                let is_new = |package: &Locked| !lock.packages.iter().any(|it| it.name == package.name);
                let (mut packages, mut document) = (lock.packages.clone(), document);
                for (package, line) in more.into_iter().zip(lines).filter(|(package, _)| is_new(package)) {
                    packages.push(package);
                    document.push_str(&line);
                }
                Lock::from_requirements(key, origin, packages, document)?
            }
        };
        Ok(added.choosing(lock.extras.clone(), lock.groups.clone()))
    }

    fn resolve(&self) -> Outcome<Lock> {
        let Some(cutoff) = self.request.cutoff else {
            let way = ResolveMode::free("the date of the requirements is unknown");
            return self.resolve_once(&way).map_err(|unresolved| unresolved.failure);
        };
        let limited = match self.resolve_once(&ResolveMode::until(cutoff, clock::now())) {
            Ok(lock) => return Ok(lock),
            Err(limited) if limited.kind.is_some_and(InstallErrorKind::may_be_the_cutoff) => limited,
            Err(other) => return Err(other.failure),
        };
        let why = limited.because_of_upload_times.then_some(NO_UPLOAD_TIMES);
        let way = ResolveMode::free(why.unwrap_or_default());
        let again = "no solution among the releases of that date; resolving again with all releases";
        self.operation.runner.events().output("lock", again);
        // The failure gives the reason without the cutoff, not the releases that the cutoff hid.
        let mut lock = self.resolve_once(&way).map_err(|unresolved| unresolved.failure)?;
        if why.is_none()
            && let Origin::Resolved { not_reproducible, .. } = &mut lock.origin
        {
            let found = (lock.form == Form::Pylock).then(|| Pylock::parse(&lock.document)).transpose()?;
            *not_reproducible = Some(why_not_until(cutoff, found.as_ref()));
        }
        Ok(lock)
    }

    fn resolve_once(&self, way: &ResolveMode) -> Result<Lock, Unresolved> {
        let directory = self.operation.scratch.join("definitions");
        disk::remove_tree(&directory)?;
        disk::make_directory(&directory, 0o755)?;
        let files = self.definitions.write_below(&directory)?;
        let hashes = author_hashes(self.definitions)?;
        let form = if hashes.is_empty() { Form::Pylock } else { Form::Requirements };
        let found = if files.is_empty() { Resolution::default() } else { self.compile(&files, form, way)? };
        resolution_checks::refuse_withdrawn(&found.yanked)?;
        resolution_checks::refuse_unknown_extras(self.definitions, &found.unknown_extras)?;
        let doubt = if found.from_cache { Some(FROM_CACHE.to_owned()) } else { way.not_reproducible.clone() };
        let origin = Origin::Resolved {
            by: uv::identity(),
            cutoff: way.cutoff,
            not_reproducible: doubt.filter(|_| !files.is_empty()),
        };
        let key = &self.request.key;
        Ok(match form {
            Form::Pylock => Lock::from_pylock(key, origin, &found.document)?,
            Form::Requirements => {
                let (packages, lines) = hashed_lines(&found.document, &hashes)?;
                Lock::from_requirements(key, origin, packages, lines.concat())?
            }
        })
    }

    /// Resolves files of requirements; packages with a separate index come from that index.
    fn compile(&self, files: &[PathBuf], form: Form, way: &ResolveMode) -> Result<Resolution, Unresolved> {
        let own = &self.operation.setup.indexes;
        let lines = self.definitions.package_lines();
        let also = self.definitions.also.iter();
        let named = lines.iter().map(|(_, line)| *line).chain(also).filter_map(|line| match &line.meaning {
            LineKind::Package(package) => Some(package.name.clone()),
            _ => None,
        });
        let mut directed: Vec<String> = named.filter(|name| own.contains_key(name)).collect();
        loop {
            directed.sort();
            directed.dedup();
            let found = self.compile_with(files, form, way, &directed)?;
            let more: Vec<String> = names_in(&found.document, form)?
                .into_iter()
                .filter(|name| own.contains_key(name) && !directed.contains(name))
                .collect();
            if more.is_empty() {
                return Ok(found);
            }
            directed.extend(more);
        }
    }

    fn compile_with(
        &self,
        files: &[PathBuf],
        form: Form,
        way: &ResolveMode,
        directed: &[String],
    ) -> Result<Resolution, Unresolved> {
        let mut files = files.to_vec();
        if !directed.is_empty() {
            files.insert(0, self.write_sources(directed)?);
        }
        let operation = self.operation;
        let program = |network| {
            let mut program = uv::compile(operation, network, &self.request.interpreter);
            program = match form {
                Form::Pylock => program.args(["--format", "pylock.toml"]),
                Form::Requirements => program.args(["--format", "requirements.txt", "--generate-hashes"]),
            };
            if self.definitions.allows_pre_releases() {
                program = program.args(["--prerelease", "allow"]);
            }
            if let Some(cutoff) = way.cutoff {
                program = program.arg("--exclude-newer").arg(cutoff.to_string());
            }
            files.iter().fold(program, Program::arg)
        };
        let online = self.run(&program(Network::Used));
        match online {
            Err(unreached)
                if unreached.kind == Some(InstallErrorKind::Network) && !operation.setup.offline =>
            {
                let cached = self.run(&program(Network::Unused));
                cached.map(|found| Resolution { from_cache: true, ..found }).map_err(|_| unreached)
            }
            other => other,
        }
    }

    fn run(&self, program: &Program) -> Result<Resolution, Unresolved> {
        let mut finished = self.operation.runner.run(program)?;
        // Names of files are those of the application's tree, not of the scratch directory.
        let text = String::from_utf8_lossy(&finished.stderr);
        let scratch = self.operation.scratch.display();
        let text = text
            .replace(&format!("{scratch}/definitions/"), "")
            .replace(&format!("{scratch}/also/"), "")
            .replace(&format!("{scratch}/"), "");
        finished.stderr = text.clone().into_bytes();
        // The failure is short; the log of the run has the full text.
        text.lines().for_each(|line| self.operation.runner.events().output("uv", line));
        if finished.succeeded() {
            return Ok(Resolution {
                document: finished.text(),
                yanked: install_error::parse_yanked(&text),
                unknown_extras: install_error::parse_unknown_extras(&text),
                from_cache: false,
            });
        }
        Err(Unresolved {
            kind: matches!(finished.ended, ChildEnd::Exited(_)).then(|| install_error::parse_kind(&text)),
            because_of_upload_times: text.contains("does not provide upload-time metadata"),
            failure: install_error::explain(
                &finished,
                "the requirements cannot be resolved",
                &self.operation.setup.network,
            ),
        })
    }

    /// Writes a project that requires packages, each from its own index and from no other.
    fn write_sources(&self, directed: &[String]) -> Outcome<PathBuf> {
        let directory = self.operation.scratch.join("indexes");
        disk::make_directory(&directory, 0o700)?;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let names: Vec<String> = directed.iter().map(|name| quoted(name)).collect();
        let mut text = format!(
            "[project]\nname = \"ladylinux-refresh-indexes\"\nversion = \"0\"\ndependencies = [{}]\n",
            names.join(", ")
        );
        text.push_str("[tool.uv.sources]\n");
        for name in directed {
            text.push_str(&format!("{} = {{ index = {} }}\n", quoted(name), quoted(&format!("own-{name}"))));
        }
        for name in directed {
            let url = self.operation.setup.indexes.get(name).map(String::as_str).unwrap_or_default();
            let (index, url) = (quoted(&format!("own-{name}")), quoted(url));
            text.push_str(&format!("[[tool.uv.index]]\nname = {index}\nurl = {url}\nexplicit = true\n"));
        }
        let file = directory.join("pyproject.toml");
        disk::remove_file_if_there(&file)?;
        disk::write_unsynced(&file, text.as_bytes(), 0o600)?;
        Ok(file)
    }
}

/// Returns the names of the packages in a document.
fn names_in(document: &str, form: Form) -> Outcome<Vec<String>> {
    Ok(match form {
        Form::Pylock => Pylock::parse(document)?.names(),
        Form::Requirements => {
            hashed_lines(document, &BTreeMap::new())?.0.into_iter().map(|it| it.name).collect()
        }
    })
}

/// Returns why a definition resolves only without a cutoff.
fn why_not_until(cutoff: jiff::Timestamp, found: Option<&Pylock>) -> String {
    let newer = found.map(|found| found.newer_than(cutoff)).unwrap_or_default();
    if newer.is_empty() && found.is_some_and(|found| !found.has_upload_times()) {
        return NO_UPLOAD_TIMES.to_owned();
    }
    let what = match newer.as_slice() {
        [] => String::new(),
        [one] => format!(" ({one})"),
        [one, rest @ ..] => format!(" ({one} and {} more)", rest.len()),
    };
    format!("the requirements, of {cutoff}, ask for releases that are newer{what}")
}
