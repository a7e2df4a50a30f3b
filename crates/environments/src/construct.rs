//! The operation that builds an environment: `uv venv` and `uv pip sync` in a fresh directory, and the manifest of its
//! content.
//!
//! No build is resumed: an existing directory is removed first. Packages in uv's cache are installed without the
//! network.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use refresh_events::run_report::Overlap;
use refresh_programs::process::{Finished, Keep, Program};
use refresh_system::environment::find_program;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::manifest::{Entry, Kind, Manifest, Scan};
use refresh_system::{checkpoint, disk};

use super::compare::ENTRIES;
use super::interpreter::Interpreter;
use super::lock::{Form, Lock};
use super::locked::is_pinned;
use super::pylock::{self, Pylock};
use super::record::{self, Package};
use super::requirements::{self, Line, LineKind};
use super::uv::{self, Network};
use super::uv_operation::{Setup, UvOperation};
use super::{install_error, overlaps, resolution_checks, site};

/// The operation.
pub(super) const OPERATION: &str = "python-build";

/// The start of every digest. A different way to compute the digest gets a different start, and thus different digests.
const DIGEST: &str = "ladylinux-refresh environment 2\n";

/// Files in the metadata of a distribution that describe its installation.
const OF_THE_INSTALLATION: [&str; 5] =
    ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "RECORD"];

/// Builds an environment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BuildRequest {
    pub(super) setup: Setup,
    pub(super) interpreter: Interpreter,
    /// The packages to install.
    pub(super) lock: Lock,
    /// Where it is built; nothing may use it yet.
    pub(super) directory: PathBuf,
    /// uv's cache, if it is not the default one.
    pub(super) cache: Option<PathBuf>,
}

/// The result of a build.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BuildResponse {
    /// The distributions, sorted by name.
    pub(super) packages: Vec<Package>,
    /// The digest of the installed files, the same on every machine.
    pub(super) digest: String,
    /// All files, as the text of a manifest.
    pub(super) manifest: String,
    /// The number of regular files, and their bytes.
    pub(super) size: (u64, u64),
    /// Files that several distributions bring.
    pub(super) overlaps: Vec<Overlap>,
    /// Distributions that this build compiled from source, as `name version`.
    pub(super) from_source: Vec<String>,
}

/// Performs the operation.
pub(super) fn handle(request: &BuildRequest) -> Outcome<BuildResponse> {
    resolution_checks::refuse_source(&request.lock.binary, request.setup.allow_source)?;
    let name = request.directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let made = UvOperation::within(&request.setup, &format!("build-{name}"), |operation| {
        Building::new(operation, request)?.build()
    });
    if made.is_err() {
        disk::remove_tree(&request.directory)?;
    }
    made
}

/// The build of one environment.
struct Building<'a> {
    operation: &'a UvOperation<'a>,
    request: &'a BuildRequest,
    form: Form,
    document: String,
    /// The names of the packages, in the order of the lock.
    order: Vec<String>,
    from_source: std::cell::RefCell<Vec<String>>,
}

impl<'a> Building<'a> {
    fn new(operation: &'a UvOperation<'a>, request: &'a BuildRequest) -> Outcome<Self> {
        let (form, document) = request.lock.to_install();
        let order = match form {
            Form::Pylock => Pylock::parse(&document)?.names(),
            Form::Requirements => lines(&document)?.into_iter().map(|(name, _)| name).collect(),
        };
        Ok(Self { operation, request, form, document, order, from_source: std::cell::RefCell::default() })
    }

    fn build(&self) -> Outcome<BuildResponse> {
        let directory = &self.request.directory;
        self.venv()?;
        checkpoint::reach("python:environment made");
        self.operation.in_time()?;
        if !self.order.is_empty() {
            self.install(&self.document, "lock", Onto::Nothing)?;
        }
        let overlaps = overlaps::find(directory, &self.order)?;
        if !overlaps.is_empty() {
            self.install_in_order(&overlaps)?;
        }
        if self.operation.setup.system_site_packages {
            self.open_to_the_system()?;
        } else {
            self.check_extras().map_err(|failure| self.request.lock.as_failure_of_lockfile(failure))?;
        }
        checkpoint::reach("python:packages installed");
        self.operation.in_time()?;
        // Most of it is written to the disk during the examination; files that change meanwhile, afterwards.
        let manifest = std::thread::scope(|scope| {
            let written = scope.spawn(|| disk::sync_file_system(directory));
            let manifest = self.examine()?;
            written.join().map_err(|_| Failure::new("the environment cannot be synced"))??;
            Ok(manifest)
        })?;
        disk::sync_file_system(directory)?;
        checkpoint::reach("python:before the record");
        let text = String::from_utf8(manifest.to_bytes());
        Ok(BuildResponse {
            packages: record::installed(directory)?,
            digest: digest_of(&manifest),
            size: manifest.files(),
            manifest: text.context(|| "the manifest is no text".to_owned())?,
            overlaps,
            from_source: self.from_source.take(),
        })
    }

    /// Checks what was installed, makes it read-only, and returns its manifest.
    fn examine(&self) -> Outcome<Manifest> {
        let (operation, request) = (self.operation, self.request);
        // The checks only read the environment, like the scan.
        std::thread::scope(|scope| {
            let checked = scope.spawn(|| {
                // Whether packages of the system fit together is a matter of the system.
                if !operation.setup.system_site_packages {
                    let fit = operation.run(
                        uv::check(operation, &request.directory),
                        "the installed packages do not fit together",
                    );
                    fit.map_err(|failure| request.lock.as_failure_of_lockfile(failure))?;
                }
                check_home(operation, &request.directory)
            });
            let scanned = self.close().and_then(|()| Scan::digests().at_most(ENTRIES).of(&request.directory));
            checked.join().map_err(|_| Failure::new("the environment cannot be checked"))??;
            scanned
        })
    }

    /// Checks that a list of requirements has all packages that its extras need: it is installed as it is.
    fn check_extras(&self) -> Outcome<()> {
        if self.form != Form::Requirements {
            return Ok(());
        }
        let pins = lines(&self.document)?.into_iter().filter_map(|(_, line)| {
            let LineKind::Package(package) = &line.meaning else { return None };
            let is_pin = !package.extras().is_empty() && !package.specification.contains('@');
            is_pin.then(|| line.text.split(" --hash").next().unwrap_or_default().trim().to_owned())
        });
        let pins: Vec<String> = pins.collect();
        if pins.is_empty() {
            return Ok(());
        }
        let file = self.operation.scratch.join("extras.txt");
        disk::write_unsynced(&file, pins.join("\n").as_bytes(), 0o644)?;
        let program = uv::dry_run(self.operation, &self.request.directory, &file);
        let finished = self.operation.runner.run(&program)?;
        if finished.succeeded() {
            return Ok(());
        }
        let reason = install_error::parse_reason(&String::from_utf8_lossy(&finished.stderr));
        let because = reason.lines().find(|line| line.starts_with("Because")).unwrap_or(&reason);
        Err(Failure::new(format!("not all packages that its extras need are in it: {}", pins.join(", ")))
            .because(Failure::new(because))
            .hint("add them with their hashes: uv pip compile --generate-hashes"))
    }

    /// Creates the empty environment in a new directory.
    fn venv(&self) -> Outcome<()> {
        disk::remove_tree(&self.request.directory)?;
        let program = uv::venv(self.operation, &self.request.interpreter, &self.request.directory);
        self.operation.run(program, "cannot make the environment")
    }

    /// Lets the programs of the environment see the packages of the system. The packages of the lock are still
    /// installed in it, and take precedence.
    fn open_to_the_system(&self) -> Outcome<()> {
        let file = self.request.directory.join(site::CONFIGURATION);
        let text = disk::read_at_most(&file, 64 << 10)?.unwrap_or_default();
        let text = site::showing_system(&String::from_utf8_lossy(&text));
        disk::remove_file_if_there(&file)?;
        disk::write_unsynced(&file, text.as_bytes(), 0o644)
    }

    /// Builds it again. Packages that bring the same file are installed after all others, one by one in the order of
    /// the lock.
    fn install_in_order(&self, overlaps: &[Overlap]) -> Outcome<()> {
        let is_of_several = |name: &str| overlaps.iter().any(|it| it.packages.iter().any(|it| it == name));
        self.venv()?;
        let others = self.selected(&|name| !is_of_several(name))?;
        if self.order.iter().any(|name| !is_of_several(name)) {
            self.install(&others, "others", Onto::Nothing)?;
        }
        let mut done: Vec<&String> = Vec::new();
        for (number, name) in self.order.iter().enumerate().filter(|(_, name)| is_of_several(name)) {
            if !done.contains(&name) {
                let one = self.selected(&|other| other == name)?;
                self.install(&one, &format!("one-{number}"), Onto::Others)?;
                done.push(name);
            }
        }
        Ok(())
    }

    /// Returns the part of the lock that names these packages.
    fn selected(&self, wanted: &dyn Fn(&str) -> bool) -> Outcome<String> {
        match self.form {
            Form::Pylock => pylock::selected(&self.document, wanted),
            Form::Requirements => {
                let lines = lines(&self.document)?.into_iter().filter(|(name, _)| wanted(name));
                Ok(lines.map(|(_, line)| format!("{}\n", line.text)).collect())
            }
        }
    }

    /// Installs the packages of a document: from the cache if it has all of them, else with the network.
    fn install(&self, document: &str, name: &str, onto: Onto) -> Outcome<()> {
        let file = match self.form {
            Form::Pylock => format!("pylock.{name}.toml"),
            Form::Requirements => format!("{name}.txt"),
        };
        let file = self.operation.scratch.join(file);
        disk::write_unsynced(&file, document.as_bytes(), 0o644)?;
        let finished = if let Some(finished) = self.install_from_cache(onto, &file)? {
            finished
        } else {
            self.operation.in_time()?;
            let program = self.program(onto, Network::Used, &file);
            self.operation.runner.run(&program.keep(Keep::Narrated("uv".to_owned())))?
        };
        self.from_source
            .borrow_mut()
            .extend(install_error::parse_built(&String::from_utf8_lossy(&finished.stderr)));
        if finished.succeeded() { Ok(()) } else { Err(self.explain(&finished)) }
    }

    /// Installs the packages of a file without the network. Returns `None` if the network is needed and may be used.
    fn install_from_cache(&self, onto: Onto, file: &Path) -> Outcome<Option<Finished>> {
        let usual = self.operation.setup.cache();
        let cache = self.request.cache.as_ref().unwrap_or(&usual);
        let may_use_network = !self.operation.setup.offline;
        if may_use_network && !uv::has_wheels(cache) {
            return Ok(None);
        }
        let finished = self.operation.runner.run(&self.program(onto, Network::Unused, file))?;
        let text = String::from_utf8_lossy(&finished.stderr);
        if may_use_network && !finished.succeeded() && install_error::lacks_network(&text) {
            return Ok(None);
        }
        text.lines().for_each(|line| self.operation.runner.events().output("uv", line));
        Ok(Some(finished))
    }

    /// Returns the uv command that installs the packages of a file.
    fn program(&self, onto: Onto, network: Network, file: &Path) -> Program {
        let directory = &self.request.directory;
        let mut program = match onto {
            Onto::Nothing => uv::sync(self.operation, network, directory).arg(file),
            Onto::Others => uv::add(self.operation, network, directory).arg("--requirements").arg(file),
        };
        if let Some(cache) = &self.request.cache {
            program = program.env("UV_CACHE_DIR", cache);
        }
        let program = self.request.lock.binary.iter().fold(program, Program::arg);
        if self.form == Form::Requirements {
            // Every file is verified by its hash, so its index does not matter.
            let indexes = self.operation.setup.indexes.values();
            return indexes
                .fold(program, |program, url| program.arg("--index").arg(url))
                .args(["--index-strategy", "unsafe-best-match"]);
        }
        let lock = &self.request.lock;
        let program = lock.extras.iter().fold(program, |program, extra| program.arg("--extra").arg(extra));
        lock.groups.iter().fold(program, |program, group| program.arg("--group").arg(group))
    }

    fn explain(&self, finished: &Finished) -> Failure {
        let failure =
            install_error::explain(finished, "cannot install the packages", &self.operation.setup.network);
        match install_error::parse_kind(&String::from_utf8_lossy(&finished.stderr)) {
            install_error::InstallErrorKind::OtherMachine => {
                self.request.lock.as_failure_of_lockfile(failure)
            }
            _ => failure,
        }
    }

    /// Removes all write permissions: a built environment does not change.
    fn close(&self) -> Outcome<()> {
        let chmod = find_program("chmod", true)
            .ok_or_else(|| Failure::new("chmod is missing").command("apt install coreutils", &[]))?;
        let program = self.operation.program(&chmod).args(["-R", "a-w", "--"]).arg(&self.request.directory);
        self.operation.output_of(&program, "cannot make the new environment read-only").map(drop)
    }
}

/// Checks that the interpreter of the environment runs, and that it reports the environment as its home.
fn check_home(operation: &UvOperation<'_>, directory: &Path) -> Outcome<()> {
    let python = operation.program(&directory.join("bin/python"));
    let python = python.args(["-I", "-c", "import sys; print(sys.prefix)"]);
    let home = operation.output_of(&python, "the new environment's interpreter does not run")?;
    let context = || "cannot read the new environment".to_owned();
    let real = |path: &Path| std::fs::canonicalize(path).context(context);
    if real(Path::new(home.trim_end_matches('\n')))? == real(directory)? {
        return Ok(());
    }
    Err(Failure::new(format!("the new environment's interpreter takes {} for its home", home.trim())))
}

/// The state of the environment before an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Onto {
    Nothing,
    Others,
}

/// Returns the lines of a list of requirements with their names. Each line must pin a version with hashes.
fn lines(document: &str) -> Outcome<Vec<(String, Line)>> {
    let of = |line: Line| match &line.meaning {
        LineKind::Package(package) if is_pinned(&line) => Ok((package.name.clone(), line)),
        _ => Err(Failure::new(format!("the lock has {:?}, which pins no version", line.text))),
    };
    requirements::parse(document.as_bytes(), "the lock")?.into_iter().map(of).collect()
}

/// Returns the digest of the installed files, by path and content. Files that describe the installation are left out:
/// the installer and its method; scripts, which contain the path of the environment; bytecode, which contains times;
/// and the files of `uv venv`. So two machines agree.
fn digest_of(manifest: &Manifest) -> String {
    let mut state = Sha256::new();
    state.update(DIGEST);
    for entry in manifest.entries().iter().filter(|entry| counts(entry)) {
        let (kind, content) = match &entry.kind {
            Kind::Link(target) => ("link", target.to_string_lossy().into_owned()),
            _ if entry.mode & 0o111 != 0 => ("program", entry.digest.clone().unwrap_or_default()),
            _ => ("file", entry.digest.clone().unwrap_or_default()),
        };
        // Lengths come first: no name can be mistaken for a part of another.
        for part in [kind, &entry.path.to_string_lossy(), &content] {
            state.update((part.len() as u64).to_be_bytes());
            state.update(part);
        }
    }
    hex::encode(state.finalize())
}

/// Returns whether an entry is an installed file, and does not only describe the installation.
fn counts(entry: &Entry) -> bool {
    let path = &entry.path;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let directory = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let of_the_installation = directory.ends_with(".dist-info") && OF_THE_INSTALLATION.contains(&&*name);
    let is_of_venv = path.starts_with("bin") || path.components().count() < 2;
    let is_byte_code = path.extension().is_some_and(|end| end == "pyc");
    entry.kind != Kind::Directory && !(of_the_installation || is_of_venv || is_byte_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(files: &[(&str, &str)]) -> String {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            disk::make_directory(path.parent().unwrap(), 0o755).unwrap();
            disk::write_unsynced(&path, text.as_bytes(), 0o644).unwrap();
        }
        digest_of(&Scan::digests().of(directory.path()).unwrap())
    }

    const SITE: [(&str, &str); 2] = [("lib/p/a.py", "1"), ("lib/p/a-1.dist-info/METADATA", "2")];

    #[test]
    fn paths_and_contents_count() {
        let plain = digest(&SITE);
        assert_ne!(plain, digest(&SITE[..1]));
        assert_ne!(plain, digest(&[("lib/p/b.py", "1"), SITE[1]]));
        assert_ne!(plain, digest(&[("lib/p/a.py", "2"), SITE[1]]));
    }

    #[test]
    fn rw_8_2_paths_and_times_of_an_installation_do_not_count() {
        let mut more = SITE.to_vec();
        more.extend([
            ("bin/a", "#!/here"),
            ("pyvenv.cfg", "home"),
            ("lib/p/__pycache__/a.cpython-312.pyc", "4"),
            ("lib/p/a-1.dist-info/RECORD", "5"),
            ("lib/p/a-1.dist-info/INSTALLER", "uv"),
        ]);
        assert_eq!(digest(&SITE), digest(&more));
        more.push(("lib/p/a/RECORD", "6"));
        assert_ne!(digest(&SITE), digest(&more), "a file of that name that the distribution brings");
    }

    #[test]
    fn a_list_of_a_lock_holds_nothing_but_pins() {
        let hash = format!("--hash=sha256:{}", "a".repeat(64));
        assert_eq!(lines(&format!("a==1 {hash}\nb==2 ; os_name == 'x' {hash}\n")).unwrap().len(), 2);
        for bad in ["a==1\n", "a>=1 --hash=sha256:aa\n", "--pre\n", "-r x\n"] {
            assert!(lines(bad).is_err(), "{bad}");
        }
    }
}
