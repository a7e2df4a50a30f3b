//! Names of the users that own files and run units. It touches nothing.

/// The user that the service runs as and that owns `app/`.
pub const SERVICE_USER: &str = "ladylinux";
/// The user that owns the mirror, the environments and the caches.
pub const BUILDER: &str = "ladylinux-refresh";
/// The user that runs programs of the application before the stop; it owns nothing.
pub const STAGING: &str = "ladylinux-staging";
