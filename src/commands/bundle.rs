//! `bundle`: one file that refreshes a machine without a network.

use std::path::Path;

use crate::bundle;
use crate::bundle::Header;
use crate::cli::{BundleCommand, LockArgs};
use crate::commands::run_request::usual_branch;
use crate::report::json;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_settings::layers::Overrides;
use refresh_settings::layout::Layout;
use refresh_settings::names::BranchName;
use refresh_system::disk::Content;
use refresh_system::hint::command_line;
use refresh_system::screen::print_line;
use refresh_system::text::{count, harmless_line, size};

use super::{absolute, for_other_branch, lock, open_with, refuse};

/// Performs `bundle …`.
pub(super) fn bundle(layout: &Layout, command: &BundleCommand) -> Result<Success, Error> {
    match command {
        BundleCommand::Create { output, branch, lock } => create(layout, output, branch.as_deref(), lock),
        BundleCommand::Show { file, json } => show(file, *json),
    }
}

fn create(layout: &Layout, output: &Path, branch: Option<&str>, wait: &LockArgs) -> Result<Success, Error> {
    let branch = branch.map(BranchName::parse).transpose().map_err(Error::Usage)?;
    let overrides = Overrides::default();
    let on = open_with(layout, "bundle", overrides)?;
    let output = absolute(output);
    bundle::check_output(&output)
        .map_err(|failure| refuse(&on, "bundle", failure, "ladylinux-refresh bundle create --output FILE"))?;
    // Runs also use the stores that it fills.
    let _lock = lock(layout, "bundle", None, wait)?;
    let branch = branch.unwrap_or_else(|| usual_branch(&on));
    let (header, whole) = bundle::create(&on, &branch, &output).map_err(|failure| {
        let create = command_line("ladylinux-refresh bundle create --output", &[&output]);
        let (failure, next) = for_other_branch(failure, |branch| format!("{create} --branch {branch}"));
        refuse(&on, "bundle", failure, next.as_deref().unwrap_or("ladylinux-refresh plan"))
    })?;
    print(&output, &header, &whole);
    Ok(Success::Done)
}

fn show(file: &Path, json: bool) -> Result<Success, Error> {
    let file = absolute(file);
    let next = "ladylinux-refresh bundle create --output FILE";
    let (header, whole) =
        bundle::examine(&file).map_err(|failure| Refusal::with_next("bundle", failure, next))?;
    if json {
        let output =
            serde_json::json!({ "schema": 1, "sha256": whole.sha256, "size": whole.size, "header": header });
        print_line(&json::pretty(&output));
    } else {
        print(&file, &header, &whole);
    }
    Ok(Success::Done)
}

fn print(file: &Path, header: &Header, whole: &Content) {
    print_line(&format!("{}  {}", harmless_line(&file.display().to_string()), size(whole.size)));
    print_line(&format!("  sha256     {}", whole.sha256));
    print_line(&format!("  commit     {} on {}", header.commit, header.branch));
    print_line(&format!("  packages   {}", header.packages));
    print_line(&format!("  for        {}", harmless_line(&header.platform.to_string())));
    print_line(&format!("  created    {} by {}", header.made_at, harmless_line(&header.made_by)));
    print_line(&format!("  holds      {}, each with its checksum", count(header.members.len(), "file")));
    for member in &header.members {
        let name = &member.name;
        print_line(&format!("    {:>10}  {}", size(member.size), harmless_line(name)));
    }
}
