//! A report beside an earlier one of the same measurement.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use banger_host::fs::read_bounded;
use serde::Serialize;
use serde_json::Value;

/// Longest report that makes sense, in bytes.
const MAX_REPORT_LEN: u64 = 1024 * 1024;

/// A median that both reports have.
#[derive(Debug, PartialEq)]
struct Medians {
    name: String,
    then: f64,
    now: f64,
}

/// A line for each distribution that the report in `file` has, too: both medians and their ratio.
///
/// # Errors
/// When the file is no report, or one of something else.
pub(super) fn compare(report: &impl Serialize, file: &Path) -> Result<String> {
    let earlier = read_bounded(file, MAX_REPORT_LEN)?;
    let earlier = serde_json::from_slice(&earlier)
        .with_context(|| format!("{} is no report: make one with -o json", file.display()))?;
    let mut medians = Vec::new();
    collect("", &earlier, &serde_json::to_value(report)?, &mut medians);
    if medians.is_empty() {
        bail!("{} is a report of something else", file.display());
    }
    Ok(table(&medians))
}

fn collect(name: &str, then: &Value, now: &Value, medians: &mut Vec<Medians>) {
    let (Value::Object(then), Value::Object(now)) = (then, now) else { return };
    let median = |report: &serde_json::Map<String, Value>| report.get("p50")?.as_f64();
    if let (Some(then), Some(now)) = (median(then), median(now)) {
        return medians.push(Medians { name: name.to_owned(), then, now });
    }
    for (key, now) in now {
        if let Some(then) = then.get(key) {
            let name = if name.is_empty() { key.clone() } else { format!("{name}, {key}") };
            collect(&name, then, now, medians);
        }
    }
}

fn table(medians: &[Medians]) -> String {
    let mut table = format!("\n{:<36}{:>8}{:>8}{:>8}\n", "medians", "then", "now", "ratio");
    for Medians { name, then, now } in medians {
        let ratio = if *then > 0.0 { format!("{:.2}", now / then) } else { "-".to_owned() };
        table.push_str(&format!("{name:<36}{then:>8.1}{now:>8.1}{ratio:>8}\n"));
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compared(then: &str, now: Value) -> Result<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        banger_host::fs::write_atomic(file.path(), then.as_bytes()).unwrap();
        compare(&now, file.path()).map_err(|error| {
            anyhow::anyhow!(
                format!("{error:#}").replace(&file.path().display().to_string(), "FILE")
            )
        })
    }

    #[test]
    fn what_both_reports_have_is_compared() {
        let then = json!({
            "rounds": 3, "cold": { "p50": 100.0, "max": 1 }, "gone": { "p50": 1 },
            "banger": { "wall": { "p50": 0.0 }, "cpu": { "p50": 10 } },
        });
        let now = json!({
            "rounds": 4, "cold": { "p50": 150.0 }, "new": { "p50": 1 },
            "banger": { "wall": { "p50": 7.0 }, "cpu": { "p50": 5 } },
        });
        assert_eq!(
            compared(&then.to_string(), now).unwrap(),
            "\n\
             medians                                 then     now   ratio\n\
             banger, cpu                             10.0     5.0    0.50\n\
             banger, wall                             0.0     7.0       -\n\
             cold                                   100.0   150.0    1.50\n"
        );
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let now = || json!({ "cold": { "p50": 1.0 } });
        let error = compared("{", now()).unwrap_err().to_string();
        assert!(error.starts_with("FILE is no report: make one with -o json"), "{error}");
        let error = compared("{\"cold\": 7}", now()).unwrap_err().to_string();
        assert_eq!(error, "FILE is a report of something else");
    }
}
