//! uv of one pinned version: the commands that make environments. A uv of the host is never used.
//!
//! uv runs in a directory that holds checked definitions only, with a cleared environment; no configuration file of the
//! application or of a user reaches it. Its `pylock.toml` is experimental: hence the pin, and `tests/it/uv_contract.rs`,
//! which tests the behavior that is relied on.

use std::path::{Path, PathBuf};

use refresh_programs::process::Program;

use super::interpreter::Interpreter;
use super::uv_operation::{Setup, UvOperation};

/// The version that is used.
pub(super) const VERSION: &str = "0.13.9";

/// A wheel of that version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pinned {
    /// The end of the file name.
    pub(super) tag: &'static str,
    /// The sha256 of the wheel, as the index publishes it.
    pub(super) wheel: &'static str,
    /// The sha256 of the program in it.
    pub(super) program: &'static str,
}

/// The wheels of that version.
pub(super) const PINNED: [Pinned; 4] = [
    Pinned {
        tag: "manylinux_2_17_x86_64.manylinux2014_x86_64",
        wheel: "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
        program: "b73acdf73b96c3ac9e56d2fa933427b3ee6a901e3cce6ba1e3ecb3f91ca0d86a",
    },
    Pinned {
        tag: "musllinux_1_1_x86_64",
        wheel: "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
        program: "edbfb9a3d00dc84148e6691cd8740781fdc32db6505d7ef88ba6c3e569d5bec9",
    },
    Pinned {
        tag: "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
        wheel: "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
        program: "bbecb5ac518030bb5e84f1999c577228460192832ac24a92bd772735682979f4",
    },
    Pinned {
        tag: "manylinux_2_28_aarch64",
        wheel: "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
        program: "6109e47a75f2380d1cc90b00a6ee82b7b5792ddf66588625ec168545ae17512e",
    },
];

/// Returns kind and version, for records and people.
pub(super) fn identity() -> String {
    format!("uv {VERSION}")
}

/// Returns the name of the program's directory in the directory of uv; bundles use it as the name of uv.
pub(super) fn name() -> String {
    format!("uv-{VERSION}")
}

/// Returns the path of the program.
pub(super) fn program_in(directory: &Path) -> PathBuf {
    directory.join(name()).join("uv")
}

/// Returns whether a cache holds any wheel: this version unpacks each into a directory of that name.
pub(super) fn has_wheels(cache: &Path) -> bool {
    cache.join("archive-v0").is_dir()
}

/// Whether a command may use the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// Packages that are not in the cache are fetched.
    Used,
    /// Only the cache is used.
    Unused,
}

/// Returns the pinned uv program with its network variables and nothing else.
pub(super) fn command(operation: &UvOperation<'_>, network: Network) -> Program {
    with_cache(operation, network, &operation.setup.cache())
}

/// Returns the same with its own cache.
pub(super) fn with_cache(operation: &UvOperation<'_>, network: Network, cache: &Path) -> Program {
    let Setup { directory, offline, .. } = operation.setup;
    let program = operation
        .program(&program_in(directory))
        .args(["--no-config", "--system-certs", "--no-progress", "--color", "never"])
        .args(["--preview-features", "pylock"])
        .env("HOME", directory)
        .env("UV_CACHE_DIR", cache);
    let program = if *offline || network == Network::Unused { program.arg("--offline") } else { program };
    operation.setup.network.iter().fold(program, |program, (name, value)| program.env(name, value))
}

/// Makes an empty environment.
pub(super) fn venv(operation: &UvOperation<'_>, interpreter: &Interpreter, directory: &Path) -> Program {
    command(operation, Network::Unused)
        .args(["venv", "--no-project", "--no-python-downloads", "--python"])
        .arg(&interpreter.path)
        .arg(directory)
}

/// Resolves requirements.
pub(super) fn compile(operation: &UvOperation<'_>, network: Network, interpreter: &Interpreter) -> Program {
    let program = command(operation, network)
        .args(["pip", "compile", "--no-header", "--no-annotate", "--no-python-downloads", "--python"])
        .arg(&interpreter.path);
    if operation.setup.allow_source { program } else { program.args(["--only-binary", ":all:"]) }
}

/// Installs the packages of a lock, each file verified by its hash.
pub(super) fn sync(operation: &UvOperation<'_>, network: Network, directory: &Path) -> Program {
    installing(
        operation,
        command(operation, network).args(["pip", "sync", "--allow-empty-requirements"]),
        directory,
    )
}

/// Adds the packages of a lock to the installed ones.
pub(super) fn add(operation: &UvOperation<'_>, network: Network, directory: &Path) -> Program {
    installing(operation, command(operation, network).args(["pip", "install", "--no-deps"]), directory)
}

/// Adds the options that both ways to install have in common.
pub(super) fn installing(operation: &UvOperation<'_>, program: Program, directory: &Path) -> Program {
    let program = program
        .args(["--require-hashes", "--link-mode", "copy", "--compile-bytecode", "--python"])
        .arg(directory.join("bin/python"));
    if operation.setup.allow_source { program } else { program.args(["--only-binary", ":all:"]) }
}

/// Reports which packages a file of requirements still lacks. Without an index and a cache it fails if there are any.
pub(super) fn dry_run(operation: &UvOperation<'_>, directory: &Path, file: &Path) -> Program {
    let program = command(operation, Network::Unused).args(["--no-cache", "pip", "install", "--dry-run"]);
    program.arg("--python").arg(directory.join("bin/python")).arg("--requirements").arg(file)
}

/// Checks that the installed packages fit together.
pub(super) fn check(operation: &UvOperation<'_>, directory: &Path) -> Program {
    command(operation, Network::Unused).args(["pip", "check", "--python"]).arg(directory.join("bin/python"))
}
