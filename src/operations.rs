//! The only list of operations that this program performs inside a unit. It changes nothing itself.

use refresh_environments as python;
use refresh_git::mirror_answer;
use refresh_host::host::relocate;
use refresh_host::requests;
use refresh_installation::installation::read_release as release;
use refresh_models::examine;
use refresh_programs::process::worker;
use refresh_run::refresh::entry;
use refresh_service::envfile;
use refresh_service::probe::asker;
use refresh_source as source;

/// Returns the JSON of the response to a request of `operation`; `None` if the operation does not exist.
pub fn answer(operation: &str, request: &[u8]) -> Option<Vec<u8>> {
    match operation {
        relocate::OPERATION => Some(worker::answer(request, |request| relocate::handle(&request))),
        envfile::OPERATION => Some(worker::answer(request, |request| envfile::handle(&request))),
        examine::OPERATION => Some(worker::answer(request, examine::handle)),
        mirror_answer::OPERATION => Some(worker::answer(request, mirror_answer::handle)),
        asker::OPERATION => Some(asker::answer(request)),
        requests::OPERATION => Some(requests::answer(request)),
        entry::OPERATION => Some(worker::answer(request, |request| entry::handle(&request))),
        release::OPERATION => Some(release::answer(request)),
        other => source::answer(other, request).or_else(|| python::answer(other, request)),
    }
}
