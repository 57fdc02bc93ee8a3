//! words: the nearest right word to a wrong one. May touch: nothing.

/// The word that was probably meant, if one is near.
pub fn nearest<'a>(wrong: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wrong = plain(wrong);
    let length = wrong.chars().count();
    if length > 64 {
        return None;
    }
    words
        .into_iter()
        .map(|word| {
            let plain = plain(word);
            let near = distance(&wrong, &plain);
            // `hosts` for `host`, `open_files` for `files`: one inside the other counts as near.
            let inside = length >= 3 && (plain.contains(&wrong) || wrong.contains(&plain) && plain.len() >= 3);
            (if inside { near.min(2) } else { near }, near, word)
        })
        .filter(|(near, _, word)| *near <= 1 + length.max(word.len()) / 4)
        .min_by_key(|(near, exact, _)| (*near, *exact))
        .map(|(_, _, word)| word)
}

/// Edits between two words: insert, remove, replace, swap of two neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// `a, b, c`.
pub fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_of_the_pen_finds_its_word() {
        let words = ["policy", "delay", "factor", "max_delay", "on-failure", "on-success", "hosts", "no"];
        for (wrong, right) in [
            ("polcy", Some("policy")),
            ("onfailure", Some("on-failure")),
            ("on_failure", Some("on-failure")),
            ("ON-FAILURE", Some("on-failure")),
            ("maxdelay", Some("max_delay")),
            ("host", Some("hosts")),
            ("dleay", Some("delay")),
            ("elephant", None),
            ("", Some("no").filter(|_| false)),
        ] {
            assert_eq!(nearest(wrong, words), right, "{wrong}");
        }
    }
}
