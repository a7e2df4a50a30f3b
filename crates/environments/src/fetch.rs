//! Fetching uv: its wheel comes from the package index, is verified by its sha256, and contains one program.
//!
//! The interpreter needs only its standard library for this, so no installer is needed to get the installer. It writes
//! only below the directory of uv.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_programs::process::Program;
use refresh_system::checkpoint;
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};

use super::Site;
use super::interpreter::Interpreter;
use super::network;
use super::uv::{self, PINNED, Pinned, VERSION};
use super::uv_operation::{Setup, UvOperation};

/// The operation that provides uv.
pub(super) const OPERATION: &str = "python-fetch-uv";

/// The largest size of the program, in bytes.
const LARGEST: u64 = 512 << 20;

/// Queries the index for the wheel, fetches it, and extracts the program.
const FETCH: &str = r#"
import base64, hashlib, html.parser, json, os, re, ssl, sys, time, urllib.error, urllib.parse, urllib.request, zipfile
index, directory, member = sys.argv[1:4]
wanted = dict(pair.split("=") for pair in sys.argv[4:])
def plain(url):
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), parts.username, parts.password
def ask(url, accept):
    url, user, password = plain(url)
    if url.startswith("file:") and os.path.isdir(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)):
        url = url.rstrip("/") + "/index.html"
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "ladylinux-refresh"})
    if user is not None and url.startswith(site):
        pair = urllib.parse.unquote(user) + ":" + urllib.parse.unquote(password or "")
        request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    return urllib.request.urlopen(request, timeout=60, context=ssl.create_default_context())
class Links(html.parser.HTMLParser):
    found = []
    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found.append(dict(attributes).get("href") or "")
def fetch():
    page = index.rstrip("/") + "/uv/"
    if page.startswith("file:"):
        # An index in a directory: nothing serves its pages.
        page += "index.html"
    with ask(page, "application/vnd.pypi.simple.v1+json, text/html;q=0.5") as answer:
        kind, text, base = answer.headers.get_content_type(), answer.read().decode(), answer.geturl()
    if kind.endswith("json"):
        links = [entry["url"] for entry in json.loads(text)["files"]]
    else:
        links = Links()
        links.feed(text)
        links = links.found
    links = {urllib.parse.unquote(urllib.parse.urlsplit(link).path.rpartition("/")[2]): link for link in links}
    file = next((file for file in wanted if file in links), None)
    if file is None:
        sys.exit("the index has none of " + ", ".join(wanted))
    url = urllib.parse.urljoin(base, links[file])
    user = urllib.parse.urlsplit(index).netloc.rpartition("@")[0]
    if user and url.startswith(site):
        parts = urllib.parse.urlsplit(url)
        url = urllib.parse.urlunsplit(parts._replace(netloc=user + "@" + parts.netloc))
    with ask(url, "*/*") as answer:
        wheel = answer.read()
    digest = hashlib.sha256(wheel).hexdigest()
    if digest != wanted[file]:
        sys.exit(file + " is not the pinned one: its sha256 is " + digest)
    path = os.path.join(directory, file)
    with open(path, "wb") as out:
        out.write(wheel)
    with zipfile.ZipFile(path) as archive, open(os.path.join(directory, "uv"), "wb") as out:
        out.write(archive.read(member))
site = "{0.scheme}://{0.netloc}/".format(urllib.parse.urlsplit(plain(index)[0]))
for pause in (1, 3, None):
    try:
        fetch()
        break
    except (OSError, urllib.error.URLError) as error:
        if pause is None or getattr(error, "code", 500) in (401, 403, 404):
            sys.exit("the package index cannot be reached: %s" % error)
        time.sleep(pause)
"#;

/// Provides uv.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EnsureUvRequest {
    setup: Setup,
    interpreter: Interpreter,
    /// The file from a bundle, if uv comes from one.
    from: Option<PathBuf>,
}

/// Returns whether uv exists and runs; else it must be fetched again.
///
/// # Errors
/// The run is interrupted.
fn is_present(operation: &UvOperation<'_>) -> Outcome<bool> {
    let program = uv::program_in(&operation.setup.directory);
    Ok(program.is_file() && works(operation, &program)?)
}

/// Returns whether a program is the pinned uv and runs on this machine.
fn works(operation: &UvOperation<'_>, program: &Path) -> Outcome<bool> {
    match operation.runner.run(&Program::new(program).arg("--version")) {
        Ok(finished) => Ok(finished.succeeded() && parse_version(&finished.text()) == Some(VERSION)),
        Err(failure) if failure.interrupted_by().is_some() => Err(failure),
        Err(_) => Ok(false),
    }
}

fn parse_version(text: &str) -> Option<&str> {
    text.strip_prefix("uv ")?.split_whitespace().next()
}

impl Site<'_> {
    /// Provides uv: fetches it if it does not exist.
    ///
    /// # Errors
    /// It cannot be fetched, or does not run on this machine.
    pub(super) fn ensure_uv(&self, interpreter: &Interpreter) -> Outcome<()> {
        if uv::program_in(&self.layout.uv()).is_file() {
            return Ok(());
        }
        if !self.offline {
            let what = uv::identity();
            self.runner.events().note(&format!("fetching {what} from the package index"));
        }
        self.ensure_uv_from(interpreter, None)
    }

    /// Provides uv: takes it from the file `from` if it does not exist.
    ///
    /// # Errors
    /// The file is not the pinned program, or does not run on this machine.
    pub(super) fn ensure_uv_from(&self, interpreter: &Interpreter, from: Option<PathBuf>) -> Outcome<()> {
        let (setup, interpreter) = (self.setup()?, interpreter.clone());
        self.call(OPERATION, &EnsureUvRequest { setup, interpreter, from })
    }
}

/// Performs the operation.
pub(super) fn handle(request: &EnsureUvRequest) -> Outcome<()> {
    UvOperation::within(&request.setup, "uv", |operation| {
        if is_present(operation)? {
            return Ok(());
        }
        let arrived = match &request.from {
            Some(file) => file.clone(),
            None if request.setup.offline => return Err(missing()),
            None => fetch(operation, &request.interpreter)?,
        };
        checkpoint::reach("python:tool fetched");
        put_in_place(operation, &arrived)
    })
}

fn missing() -> Failure {
    let what = format!("neither this machine nor the bundle has {}", uv::identity());
    Failure::new(what).command("ladylinux-refresh bundle create --output FILE", &[])
}

/// Fetches the wheel and returns the program in it.
fn fetch(operation: &UvOperation<'_>, interpreter: &Interpreter) -> Outcome<PathBuf> {
    let index = operation.setup.network.iter().find(|(name, _)| name == "UV_DEFAULT_INDEX");
    let index = index.map_or("https://pypi.org/simple", |(_, url)| url);
    let program =
        operation.program(&interpreter.path).args(["-I", "-c", FETCH]).arg(index).arg(&operation.scratch);
    let program = program.arg(format!("uv-{VERSION}.data/scripts/uv"));
    let program = fitting(interpreter).into_iter().fold(program, |program, pinned| {
        program.arg(format!("uv-{VERSION}-py3-none-{}.whl={}", pinned.tag, pinned.wheel))
    });
    let program =
        operation.setup.network.iter().fold(program, |program, (name, value)| program.env(name, value));
    let finished = operation.runner.run(&program)?;
    if finished.succeeded() {
        return Ok(operation.scratch.join("uv"));
    }
    let failure = finished.failure(&format!("cannot fetch {}", uv::identity()));
    let failure = network::detours(&operation.setup.network).into_iter().fold(failure, Failure::hint);
    Err(failure.hint("check the network, proxy and certificates of this machine").hint(network::MIRROR))
}

/// Returns the wheels that may run on the machine of an interpreter, the best first.
fn fitting(interpreter: &Interpreter) -> Vec<&'static Pinned> {
    let machine = interpreter.platform.rsplit('-').next().unwrap_or_default();
    let is_musl = interpreter.abi.contains("musl");
    let mut fitting: Vec<&Pinned> = PINNED
        .iter()
        .filter(|pinned| pinned.tag.contains(machine) && pinned.tag.contains("musl") >= is_musl)
        .collect();
    // With an old C library, the wheel for a newer one does not run.
    fitting
        .sort_by_key(|pinned| (pinned.tag.contains("2_28"), !is_musl && !pinned.tag.contains("manylinux")));
    fitting
}

/// Verifies the program, and moves it to its place in one step.
fn put_in_place(operation: &UvOperation<'_>, arrived: &Path) -> Outcome<()> {
    let aside = operation.scratch.join(uv::name());
    disk::make_new_directory(&aside, 0o755)?;
    let copy = aside.join("uv");
    let content = disk::take_copy(arrived, &copy, 0o755, LARGEST)?;
    if !PINNED.iter().any(|pinned| pinned.program == content.sha256) {
        let what = format!("the downloaded file is not the pinned {}", uv::identity());
        return Err(Failure::new(format!("{what} (sha256 {})", content.sha256)));
    }
    if !works(operation, &copy)? {
        return Err(Failure::new(format!("{} does not run on this machine", uv::identity()))
            .hint("it needs Linux on x86_64 or aarch64"));
    }
    disk::sync_file_system(&aside)?;
    checkpoint::reach("python:tool proved");
    let place = operation.setup.directory.join(uv::name());
    disk::remove_tree(&place)?;
    disk::move_new(&aside, &place)?;
    disk::sync_parent(&place)?;
    // They only take space.
    let _ = remove_others(&operation.setup.directory);
    Ok(())
}

/// Removes the programs of other versions of uv, which no environment needs.
fn remove_others(directory: &Path) -> Outcome<()> {
    for name in disk::names(directory)? {
        if name.as_bytes().starts_with(b"uv-") && name.as_os_str() != OsStr::new(&uv::name()) {
            disk::remove_tree(&directory.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_version_of_uv_stays() {
        let place = tempfile::tempdir().unwrap();
        for name in ["uv-0.0.1", "cache", &uv::name()] {
            disk::make_directory(&place.path().join(name), 0o755).unwrap();
        }
        remove_others(place.path()).unwrap();
        let mut names = disk::names(place.path()).unwrap();
        names.sort();
        assert_eq!(names, ["cache", &uv::name()]);
    }

    #[test]
    fn the_version_is_read_from_the_answer_of_uv() {
        assert_eq!(parse_version("uv 0.13.9 (abc 2026-01-01)\n"), Some("0.13.9"));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn the_wheel_fits_the_machine_and_its_c_library() {
        let of = |platform: &str, abi: &str| -> Vec<&str> {
            let interpreter = Interpreter {
                path: "/usr/bin/python3".into(),
                implementation: "cpython".to_owned(),
                version: "3.11.2".to_owned(),
                abi: abi.to_owned(),
                platform: platform.to_owned(),
            };
            fitting(&interpreter).into_iter().map(|pinned| pinned.tag).collect()
        };
        let glibc = of("linux-x86_64", "cpython-311-x86_64-linux-gnu");
        assert_eq!(glibc[0], "manylinux_2_17_x86_64.manylinux2014_x86_64");
        assert_eq!(of("linux-x86_64", "cpython-311-x86_64-linux-musl"), ["musllinux_1_1_x86_64"]);
        let arm = of("linux-aarch64", "cpython-311-aarch64-linux-gnu");
        assert_eq!(
            arm,
            ["manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64", "manylinux_2_28_aarch64"]
        );
        assert!(of("linux-riscv64", "cpython-311-riscv64-linux-gnu").is_empty());
    }
}
