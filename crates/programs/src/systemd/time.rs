//! Whether the clock is synchronized. Source: org.freedesktop.timedate1(5).

use zvariant::OwnedValue;

use super::message::Call;
use super::unit::PROPERTIES_INTERFACE;
use super::{Bus, refused};
use refresh_system::error::{Context as _, Outcome};

const DESTINATION: &str = "org.freedesktop.timedate1";
const OBJECT: &str = "/org/freedesktop/timedate1";

impl Bus {
    /// Returns whether the kernel's clock is synchronized with another one (`NTPSynchronized`).
    ///
    /// # Errors
    /// No service of this machine provides the state of the clock.
    pub fn clock_is_synchronized(&self) -> Outcome<bool> {
        let context = || "cannot ask who keeps the clock".to_owned();
        let call = Call::new(DESTINATION, OBJECT, PROPERTIES_INTERFACE, "Get");
        let value: OwnedValue = self
            .connection
            .call(&call, &(DESTINATION, "NTPSynchronized"))
            .map_err(refused)
            .context(context)?;
        bool::try_from(value).context(context)
    }
}
