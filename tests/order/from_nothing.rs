//! A later state is made without an earlier one.

use refresh_installation::installation::Installation;
use refresh_run::refresh::{Account, Refresh, Running};

fn from_nothing(on: &Installation, account: Account) -> Refresh<'_, Running> {
    Refresh { on, account, at: Running } // E0451
}

fn main() {}
