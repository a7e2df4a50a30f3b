//! Whether the clock is kept right. Source: org.freedesktop.timedate1(5).

use super::{Bus, refused};
use crate::error::{Context as _, Outcome};

const DESTINATION: &str = "org.freedesktop.timedate1";
const OBJECT: &str = "/org/freedesktop/timedate1";

impl Bus {
    /// Returns whether the kernel's clock is synchronized with another one (`NTPSynchronized`).
    ///
    /// # Errors
    /// Nobody on this machine answers for the clock.
    pub fn clock_is_synchronized(&self) -> Outcome<bool> {
        let context = || "cannot ask who keeps the clock".to_owned();
        let clock = zbus::blocking::proxy::Builder::<zbus::blocking::Proxy<'_>>::new(&self.connection)
            .destination(DESTINATION)
            .and_then(|builder| builder.path(OBJECT))
            .and_then(|builder| builder.interface(DESTINATION))
            .map(|builder| builder.cache_properties(zbus::proxy::CacheProperties::No))
            .and_then(zbus::blocking::proxy::Builder::build)
            .context(context)?;
        clock.get_property("NTPSynchronized").map_err(refused).context(context)
    }
}
