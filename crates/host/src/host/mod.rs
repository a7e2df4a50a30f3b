//! The steps of `init`: they set a machine up for the deployment contract.
//!
//! Each step checks whether it is needed, and is applied only then. So `--dry-run` shows the same list, and a second
//! `init` needs no step. Only this program's own existing files are overwritten.

mod directories;
mod files;
pub(crate) mod input;
pub mod migration;
pub(crate) mod own_files;
mod own_git;
mod page;
pub mod presence;
pub mod relocate;
mod socket;
mod socket_command;
mod source;
mod step;
mod trust;
pub mod undo;
pub(crate) mod unit;
mod unit_text;
mod units;
mod user;

pub use input::{InitInput, InitOptions};
pub(crate) use step::Step;
pub use step::{Host, Need};

use step::{ManagerKind, service_user};

/// Returns all steps, in their order.
pub fn steps(host: &Host) -> Vec<Step> {
    let on_systemd = matches!(host.manager, ManagerKind::Systemd { .. });
    let mut steps = Vec::new();
    if on_systemd {
        steps.push(Step::new(user::check_service_user, user::apply_service_user));
        steps.push(Step::new(user::check_own_users, user::apply_own_users));
    }
    steps.extend([
        Step::new(directories::check_directories, directories::apply_directories),
        Step::new(files::check_host_file, files::apply_host_file),
        Step::new(files::check_env_file, files::apply_env_file),
    ]);
    if on_systemd {
        // This comes before the long steps: it may be refused.
        steps.push(Step::new(unit::check_unit, unit::apply_unit));
    }
    steps.extend([
        Step::new(source::check_mirror, source::apply_mirror),
        Step::new(source::check_work_tree, source::apply_work_tree),
        Step::new(source::check_environment, source::apply_environment),
    ]);
    if on_systemd {
        if host.input.has_socket {
            steps.push(Step::new(socket::check_socket, socket::apply_socket));
        }
        // An installed one is updated.
        if host.input.has_page || page::is_installed(&host.layout) {
            steps.push(Step::new(page::check_page, page::apply_page));
        }
        steps.extend(units::steps(host));
    }
    steps
}
