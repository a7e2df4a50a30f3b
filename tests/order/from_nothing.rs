//! A later state is made without an earlier one.

use ladylinux_refresh::installation::Installation;
use ladylinux_refresh::refresh::{Account, Refresh, Running};

fn from_nothing(on: &Installation, account: Account) -> Refresh<'_, Running> {
    Refresh { on, account, at: Running } // E0451
}

fn main() {}
