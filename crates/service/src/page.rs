//! The unit that answers for the service while that is fenced, where `init --page` has installed it.
//!
//! Here is which process may be that unit; the module `page` of the program answers. It touches nothing.

use super::ServiceManager;
use super::port::PortHolder;

/// The name of the unit.
pub const UNIT: &str = "ladylinux-refresh-page.service";

/// Returns `true` if a process that listens on the service's port is the one of the page.
pub fn is_it(service: &dyn ServiceManager, holder: &PortHolder) -> bool {
    // Most holders are not part of such a unit, and need no question.
    holder.unit.as_deref() == Some(UNIT)
        && holder.process.is_some()
        && service.page_process().ok().flatten() == holder.process
}
