//! The doctor prints the stores with their sizes.

use serde_json::Value;

use crate::host::Host;

#[test]
fn the_doctor_prints_the_stores_with_their_sizes() {
    let host = Host::running();
    let store = |name: &str| {
        let report: Value = serde_json::from_str(&host.tool(["doctor", "--json"]).out).unwrap();
        report["stores"].as_array().unwrap().iter().find(|store| store["store"] == name).unwrap().clone()
    };
    assert!(store("environments")["bytes"].as_u64().unwrap() > 0);
    assert_eq!(store("stash")["bytes"].as_u64().unwrap(), store("previous")["bytes"].as_u64().unwrap());
    let before = store("mirror")["bytes"].as_u64().unwrap();
    // It cannot be compressed to less than half.
    let noise: String =
        (0..20_000_u64).map(|number| format!("{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    host.push(&[("big.txt", &noise)]);
    host.tool(["run"]).expect(0);
    let after = store("mirror")["bytes"].as_u64().unwrap();
    assert!(after > before + 50_000, "{before} {after}");
    host.tool(["doctor"]).prints("  mirror ").prints("  stash ");
}
