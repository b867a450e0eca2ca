"""Interception: rules in the kernel lead connections of this host's programs to their Envoy, and only those that were asked for.

A configuration becomes a `Plan` (`plan.py`), the plan becomes chains of rules (`chains.py`), and those are spelled for
iptables-restore (`iptables.py`) or nft (`nftables.py`); what TPROXY needs of routing is in `routes.py`. All of these are pure.
`kernel.py` reads and changes the kernel, `verify.py` makes a connection to see whether it is led away, and `apply.py` is the
transaction around them, with `watchdog.py` to undo what nobody confirms.
"""
