package filter

import (
	"strings"
	"unicode"
)

type kind int

const (
	// bare is a word or number outside of quotes.
	bare kind = iota
	// quoted is a string in single or double quotes: a value, or a key.
	quoted
	// name is a key in backticks.
	name
	// operator is a comparison sign or a punctuation mark.
	operator
)

type token struct {
	kind kind
	text string
	// raw is the token as it was written, quotes and all.
	raw string
}

// word compares a bare token without regard to case.
func (t token) word(w string) bool { return t.kind == bare && strings.EqualFold(t.text, w) }

const maxFilter = 100_000

// scan splits a filter into tokens. A quote is written inside its string by doubling it.
func scan(text string) ([]token, error) {
	if len(text) > maxFilter {
		return nil, invalid("The filter is longer than %d characters", maxFilter)
	}
	var out []token
	runes := []rune(text)
	for i := 0; i < len(runes); {
		r := runes[i]
		switch {
		case r == 0:
			return nil, invalid("The filter holds a NUL character")
		case unicode.IsSpace(r):
			i++
		case r == '\'' || r == '"' || r == '`':
			value, next, ok := until(runes, i)
			if !ok {
				return nil, badClause(append(out, token{raw: string(r)}, token{raw: string(runes[i+1:])}))
			}
			k := quoted
			if r == '`' {
				k = name
			}
			out = append(out, token{k, value, string(runes[i:next])})
			i = next
		case strings.ContainsRune("(),", r):
			out = append(out, token{operator, string(r), string(r)})
			i++
		case strings.ContainsRune("=<>!", r):
			n := 1
			if i+1 < len(runes) && runes[i+1] == '=' {
				n = 2
			}
			op := string(runes[i : i+n])
			out = append(out, token{operator, op, op})
			i += n
		case r == ';':
			return nil, invalid("Search filter contained multiple expression \"%s\". Provide AND-ed expression list.", text)
		default:
			start := i
			for i < len(runes) && !unicode.IsSpace(runes[i]) && !strings.ContainsRune("'\"`(),=<>!;\x00", runes[i]) {
				i++
			}
			out = append(out, token{bare, string(runes[start:i]), string(runes[start:i])})
		}
	}
	return out, nil
}

// until reads a quoted run that starts at i and returns it with the index behind it.
func until(runes []rune, i int) (string, int, bool) {
	quote := runes[i]
	var b strings.Builder
	for j := i + 1; j < len(runes); j++ {
		if runes[j] != quote {
			b.WriteRune(runes[j])
			continue
		}
		if j+1 < len(runes) && runes[j+1] == quote {
			b.WriteRune(quote)
			j++
			continue
		}
		return b.String(), j + 1, true
	}
	return "", 0, false
}
