//! The answer to visitors while the service is fenced: a small server on the sockets of the service answers every
//! request with 503, as a page or as JSON. systemd starts it as a separate unit (`ladylinux-refresh-page.service`),
//! which may only read.
//!
//! It uses the inherited sockets and opens their gate, reads the fence, and writes to connections; it changes nothing
//! else.

mod notice;
mod request;
mod server;

use std::path::Path;

use refresh_programs::process::inherited;
use refresh_programs::units::gate;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::interrupt;

use server::Server;

/// The name of the hidden command of the server.
pub const COMMAND: &str = "answer-while-fenced";

/// Answers on the inherited sockets until SIGTERM arrives, or the fence at `fence` is down.
///
/// # Errors
/// No socket is inherited, or the kernel refuses to wait for connections.
pub fn answer(fence: &Path) -> Outcome<()> {
    let listeners = inherited::listeners()?;
    if listeners.is_empty() {
        return Err(Failure::new("no socket was passed to this program")
            .command("systemctl start ladylinux-refresh-page.service", &[]));
    }
    gate::open_left(&listeners);
    let wake_up = interrupt::wake_up()?;
    let server = Server::new(listeners, fence, wake_up.into());
    inherited::report_ready().context(|| "cannot report to systemd".to_owned())?;
    server.run()
}
