package policy

import "strings"

// Keys are the condition keys of a request, by their names as KeyName writes them.
type Keys interface {
	// Lookup returns the values of a key: none when the request does not have it.
	Lookup(name string) []string
}

// Map is Keys that are all there.
type Map map[string][]string

// Lookup satisfies Keys.
func (m Map) Lookup(name string) []string { return m[name] }

// Layers are Keys of several places: the first that has a key counts. What the caller
// must not be able to say stands first.
type Layers []Keys

// Lookup satisfies Keys.
func (l Layers) Lookup(name string) []string {
	for _, k := range l {
		if values := k.Lookup(name); len(values) > 0 {
			return values
		}
	}
	return nil
}

func lookup(keys Keys, name string) []string {
	if keys == nil {
		return nil
	}
	return keys.Lookup(name)
}

// KeyName is how a condition key is compared: aws:SourceIp is aws:sourceip. It changes
// letters of ASCII only: a tag key that looks like another stays another.
func KeyName(name string) string { return lower(name) }

// lower is strings.ToLower for ASCII: the Kelvin sign is no k.
func lower(text string) string {
	for i := range len(text) {
		if 'A' <= text[i] && text[i] <= 'Z' {
			return strings.Map(func(r rune) rune {
				if 'A' <= r && r <= 'Z' {
					return r + 'a' - 'A'
				}
				return r
			}, text)
		}
	}
	return text
}
