// Package quota is Service Quotas for App Mesh: what the quotas of each account are, the
// API that reads and raises them, and the answer to whoever counts.
//
// There are three layers. The first is what the operator chose for all: no limits, or
// AWS's numbers. On it lies what the operator set for one account, exactly; and on that
// what the account itself asked for and was granted, which only raises. Settings of a
// mesh choose the first layer for it, or switch all off (D11).
//
// A fresh installation stops nobody (QUOTA-011). Where a number has to stand for no
// limit, it is NoLimit.
//
// The quotas of all accounts are in memory, kept by a watch; answers of the API come
// from the store. Start with the table in table.go, then Limits in limits.go and the
// API in service.go.
package quota
