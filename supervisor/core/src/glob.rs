//! glob: `*`, `?`, `**` over paths, for rules.
//!
//! Job: match a path against a pattern. May touch: nothing.
//! Keeps: `*` and `?` never cross a `/`; time is at most pattern length × path length, whatever the pattern.

/// Whether `text` matches `pattern` as a whole.
///
/// `?` is one character and `*` any number of them, neither a `/`. `**` is any number of characters, `/` included;
/// as a whole segment (`a/**/b`, `**/b`) it also stands for no segment at all. Everything else means itself.
pub fn matches(pattern: &str, text: &str) -> bool {
    let tokens = tokens(pattern);
    // The set of positions in the pattern that some reading of the text so far has reached.
    let mut now = vec![false; tokens.len() + 1];
    let mut next = vec![false; tokens.len() + 1];
    reach(&tokens, &mut now, 0);
    for c in text.chars() {
        next.fill(false);
        for at in (0..tokens.len()).filter(|&at| now[at]) {
            match tokens[at] {
                Token::Is(wanted) if wanted == c => reach(&tokens, &mut next, at + 1),
                Token::One if c != '/' => reach(&tokens, &mut next, at + 1),
                Token::Some if c != '/' => reach(&tokens, &mut next, at),
                Token::All => reach(&tokens, &mut next, at),
                // Whole segments: may stop only behind a `/`.
                Token::Segments => {
                    next[at] = true;
                    if c == '/' {
                        reach(&tokens, &mut next, at + 1);
                    }
                }
                Token::Is(_) | Token::One | Token::Some => {}
            }
        }
        std::mem::swap(&mut now, &mut next);
    }
    now[tokens.len()]
}

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Is(char),
    One,
    Some,
    All,
    /// `**/` at the start of a segment: any number of whole segments.
    Segments,
}

fn tokens(pattern: &str) -> Vec<Token> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut tokens = Vec::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let starts_segment = at == 0 || chars[at - 1] == '/';
        match chars[at] {
            '*' => {
                let stars = chars[at..].iter().take_while(|&&c| c == '*').count();
                at += stars;
                if stars == 1 {
                    tokens.push(Token::Some);
                } else if starts_segment && chars.get(at) == Some(&'/') {
                    at += 1;
                    tokens.push(Token::Segments);
                } else {
                    tokens.push(Token::All);
                }
                continue;
            }
            '?' => tokens.push(Token::One),
            c => tokens.push(Token::Is(c)),
        }
        at += 1;
    }
    tokens
}

/// Marks a position, and those that follow it without reading anything.
fn reach(tokens: &[Token], set: &mut [bool], mut at: usize) {
    loop {
        if set[at] {
            // Already marked, and with it what follows; `Segments` may have been kept alive alone by the text.
            if tokens.get(at) != Some(&Token::Segments) {
                return;
            }
        }
        set[at] = true;
        match tokens.get(at) {
            Some(Token::Some | Token::All | Token::Segments) => at += 1,
            Some(Token::Is(_) | Token::One) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[rustfmt::skip]
    fn each_row_says_what_a_pattern_means() {
        let table: &[(&str, &str, bool)] = &[
            ("notes/a.md",  "notes/a.md",       true),
            ("notes/*.md",  "notes/a.md",       true),
            ("notes/*.md",  "notes/b/a.md",     false),
            ("notes/**",    "notes/b/a.md",     true),
            ("notes/**",    "notes/",           true),
            ("notes/**",    "notesx",           false),
            ("**",          "",                 true),
            ("**",          "a/b",              true),
            ("**/.env",     ".env",             true),
            ("**/.env",     "a/b/.env",         true),
            ("**/.env",     "a/b.env",          false),
            ("**/.env",     "a/x.env",          false),
            ("a/**/b",      "a/b",              true),
            ("a/**/b",      "a/x/y/b",          true),
            ("a/**/b",      "a/xb",             false),
            ("a/**/b/**/c", "a/b/b/c",          true),
            ("?",           "ä",                true),
            ("?",           "/",                false),
            ("*",           "",                 true),
            ("*",           "a/b",              false),
            ("a**b",        "a/x/b",            true),
            ("",            "",                 true),
            ("",            "a",                false),
            ("[a]",         "[a]",              true),
        ];
        for (pattern, text, wanted) in table {
            assert_eq!(matches(pattern, text), *wanted, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let pattern = "*a".repeat(200);
        let text = "a".repeat(20_000) + "b";
        assert!(!matches(&pattern, &text));
    }

    proptest! {
        #[test]
        fn a_text_without_pattern_signs_matches_itself_only(a in "[a-c/]{0,6}", b in "[a-c/]{0,6}") {
            prop_assert_eq!(matches(&a, &b), a == b);
        }

        #[test]
        fn it_agrees_with_the_plain_recursive_definition(pattern in "[ab/*?]{0,7}", text in "[ab/]{0,7}") {
            prop_assert_eq!(matches(&pattern, &text), slowly(&tokens(&pattern), &text.chars().collect::<Vec<_>>()));
        }
    }

    fn slowly(tokens: &[Token], text: &[char]) -> bool {
        let Some((token, rest)) = tokens.split_first() else { return text.is_empty() };
        match token {
            Token::Is(c) => text.first() == Some(c) && slowly(rest, &text[1..]),
            Token::One => text.first().is_some_and(|c| *c != '/') && slowly(rest, &text[1..]),
            Token::Some => {
                slowly(rest, text) || (text.first().is_some_and(|c| *c != '/') && slowly(tokens, &text[1..]))
            }
            Token::All => slowly(rest, text) || (!text.is_empty() && slowly(tokens, &text[1..])),
            Token::Segments => {
                slowly(rest, text) || (0..text.len()).any(|at| text[at] == '/' && slowly(rest, &text[at + 1..]))
            }
        }
    }
}
