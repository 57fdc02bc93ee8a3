//! name: which unit a person means.
//!
//! Job: from a name with or without its kind, the unit. May touch: ids. Keeps: the one place where this is decided.

use crate::view::Refusal;
use loom_core::ids::{BadUnitName, Kind, UnitId};

/// The unit meant by `asked` among `known` ones (templates included, as `name@.kind`).
///
/// `chat` is `chat.agent`. Where no agent has that name but exactly one other kind does, it is that one; where several do,
/// the refusal lists them. An instance of a known template counts as known.
pub fn resolve_unit<'a>(asked: &str, known: impl IntoIterator<Item = &'a UnitId>) -> Result<UnitId, Refusal> {
    let known: Vec<&UnitId> = known.into_iter().collect();
    let is_known = |id: &UnitId| known.iter().any(|unit| *unit == id || id.template().is_some_and(|t| **unit == t));
    match asked.parse::<UnitId>() {
        Ok(id) if is_known(&id) => return Ok(id),
        Ok(_) => return Err(none(asked, None, &known)),
        // Perhaps a name without its kind; an instance's text may have dots of its own.
        Err(BadUnitName::Kind(_)) => {}
        Err(bad) => return Err(none(asked, Some(bad), &known)),
    }
    let candidates = Kind::ALL.into_iter().map(|kind| format!("{asked}.{kind}").parse::<UnitId>());
    let candidates: Vec<UnitId> = match candidates.collect() {
        Ok(ids) => ids,
        Err(bad) => return Err(none(asked, Some(bad), &known)),
    };
    let found: Vec<&UnitId> = candidates.iter().filter(|id| is_known(id)).collect();
    match found.as_slice() {
        [] => Err(none(asked, None, &known)),
        [one] => Ok((*one).clone()),
        [first, ..] if first.kind() == Kind::Agent => Ok((*first).clone()),
        several => {
            let names: Vec<String> = several.iter().map(|id| format!("`{id}`")).collect();
            Err(Refusal::new(Refusal::USAGE, format!("`{asked}` could be {}", names.join(" or ")))
                .try_this(format!("say which: {}", several[0])))
        }
    }
}

fn none(asked: &str, bad: Option<BadUnitName>, known: &[&UnitId]) -> Refusal {
    let mut refusal = Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no unit `{asked}`"));
    // A file's name, as a shell completes it.
    let file = asked.strip_suffix(".toml").map(|path| path.rsplit('/').next().unwrap_or(path));
    if let Some(meant) = known.iter().find(|id| Some(id.to_string().as_str()) == file) {
        return refusal
            .because("that is a file; a unit is named without `.toml`")
            .try_this(format!("did you mean `{meant}`?"));
    }
    refusal.cause = bad.map(|bad| bad.to_string());
    let stem = asked.rsplit_once('.').map_or(asked, |(stem, _)| stem);
    let near = known.iter().filter(|id| distance(id.name().as_str(), stem) <= 2 || id.name().as_str() == stem);
    let near = near.min_by_key(|id| distance(id.name().as_str(), stem));
    refusal.try_this(match near {
        Some(id) => {
            format!("did you mean `{id}`? `loomctl list` shows all; after adding a file: `loomctl daemon-reload`")
        }
        None => "`loomctl list` shows all; after adding a file: `loomctl daemon-reload`".to_owned(),
    })
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let cost = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_name_means_its_agent_then_the_only_other_kind() {
        let known: Vec<UnitId> = ["chat.agent", "chat.service", "llm.service", "x.service", "x.target", "r@.agent"]
            .iter().map(|text| text.parse().unwrap()).collect();
        let table: &[(&str, Result<&str, &str>)] = &[
            ("chat",         Ok("chat.agent")),
            ("chat.service", Ok("chat.service")),
            ("llm",          Ok("llm.service")),
            ("r@7",          Ok("r@7.agent")),
            ("r@a.b",        Ok("r@a.b.agent")),
            ("r@7.agent",    Ok("r@7.agent")),
            ("x",            Err("`x` could be `x.service` or `x.target`")),
            ("chat.target",  Err("there is no unit `chat.target`")),
            ("caht",         Err("there is no unit `caht`")),
            ("../etc",       Err("there is no unit `../etc`")),
        ];
        for (asked, expected) in table {
            let seen = resolve_unit(asked, &known).map(|id| id.to_string()).map_err(|refusal| refusal.error);
            assert_eq!(seen.as_deref().map_err(String::as_str), *expected, "{asked}");
        }
        let hint = resolve_unit("caht", &known).unwrap_err().hint.unwrap();
        assert!(hint.starts_with("did you mean `chat.agent`?"), "{hint}");
        for file in ["llm.service.toml", "units/llm.service.toml"] {
            let refusal = resolve_unit(file, &known).unwrap_err();
            assert_eq!(refusal.hint.as_deref(), Some("did you mean `llm.service`?"), "{file}");
        }
    }
}
