// Package attack attacks an evermeshd as it comes.
package attack
