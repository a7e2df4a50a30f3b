//! The machine around an installation: [`host`] sets it up and takes over an existing one, [`doctor`] checks it and
//! changes nothing, [`requests`] receives the requests of the application.

pub mod doctor;
pub mod host;
pub mod requests;
