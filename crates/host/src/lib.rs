//! The machine around an installation: [`host`] sets it up and takes over one that exists, [`doctor`] checks it and changes
//! nothing, [`requests`] takes the requests of the application.

pub mod doctor;
pub mod host;
pub mod requests;
