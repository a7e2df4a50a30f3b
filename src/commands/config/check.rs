//! `config check`: all faults of a file of settings, one per line.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::ConfigCheckArgs;
use crate::report::json;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::installation::as_typed;
use refresh_settings::faults::Fault;
use refresh_settings::layers::Layers;
use refresh_settings::layout::Layout;
use refresh_settings::trust;
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen::{Tone, fact, paint, print_line, print_lines};
use refresh_system::text::{count, harmless_line, quoted_path};

/// The largest size of a file of settings, in bytes.
const LARGEST: u64 = 1 << 20;

/// The output of `config check --json`.
#[derive(Debug, Serialize)]
struct Checked {
    schema: u32,
    file: PathBuf,
    exists: bool,
    ok: bool,
    faults: Vec<Fault>,
}

/// Checks the named file, or the one in force.
pub(super) fn check(layout: &Layout, args: &ConfigCheckArgs) -> Result<Success, Error> {
    let checked = read(layout, args).map_err(|failure| Refusal::of("config check", failure))?;
    if args.json {
        print_line(&json::pretty(&checked));
    } else {
        print(layout, &checked);
    }
    Ok(if checked.ok { Success::Done } else { Success::Invalid })
}

fn read(layout: &Layout, args: &ConfigCheckArgs) -> Outcome<Checked> {
    let (file, bytes) = match &args.file {
        None => (layout.host_file(), trust::host_file(layout)?),
        Some(file) => (file.clone(), Some(read_named(file)?)),
    };
    let exists = bytes.is_some();
    let faults = match String::from_utf8(bytes.unwrap_or_default()) {
        Ok(text) if args.application => Layers::faults_of_application(&text),
        Ok(text) => Layers::faults_of_host(layout, &text),
        Err(error) => vec![not_utf8(error.as_bytes(), error.utf8_error().valid_up_to())],
    };
    Ok(Checked { schema: 1, file, exists, ok: faults.is_empty(), faults })
}

fn read_named(file: &Path) -> Outcome<Vec<u8>> {
    disk::read_at_most(file, LARGEST)?.ok_or_else(|| {
        Failure::new(format!("{} does not exist", file.display()))
            .command("ladylinux-refresh config show", &[])
    })
}

fn not_utf8(bytes: &[u8], valid: usize) -> Fault {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
    let message = "the file is not UTF-8".to_owned();
    Fault { line, column, key: None, message, expected: Vec::new(), nearest: None }
}

fn print(layout: &Layout, checked: &Checked) {
    let file = harmless_line(&checked.file.display().to_string());
    for fault in &checked.faults {
        let place = paint(Tone::Strong, &format!("{file}:{}:{}:", fault.line, fault.column));
        // The message contains an unknown key already.
        let is_named = |key: &&String| !fault.message.contains(&format!("`{key}`"));
        let key = fault.key.as_ref().filter(is_named).map(|key| format!("{key}: ")).unwrap_or_default();
        print_line(&format!("{place} {}{}", harmless_line(&key), harmless_line(&fault.message)));
    }
    match checked.faults.first() {
        Some(first) => {
            print_line(&paint(Tone::Bad, &format!("{} in {file}", count(checked.faults.len(), "fault"))));
            let is_writable = rustix::fs::access(&checked.file, rustix::fs::Access::WRITE_OK).is_ok();
            let is_root = rustix::process::geteuid().is_root();
            let sudo = if is_root || is_writable { "" } else { "sudo " };
            let edit = format!("{sudo}${{EDITOR:-vi}} +{} {}", first.line, quoted_path(&checked.file));
            print_lines(&fact("next", &paint(Tone::Strong, &harmless_line(&edit)), usize::MAX));
        }
        None if checked.exists => print_line(&format!("{file}: no fault")),
        None => {
            print_line(&format!("{file} does not exist: the defaults are in force"));
            if let Some(ignored) = trust::ignored(layout) {
                print_line(&format!("warning: {}", harmless_line(&ignored.to_string())));
            }
            let next = as_typed(layout, "ladylinux-refresh config show");
            print_lines(&fact("next", &paint(Tone::Strong, &next), usize::MAX));
        }
    }
}
