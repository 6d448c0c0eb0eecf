"""Who decides what runs where, and who is still there: the pure part of a head with nodes on other machines.

`membership` says who is there, `coordinator` what each node was told to run, `nodesession` what a node makes of it; `presence`,
`decisions`, `journal`, `nodestates` and `kept` hold the words they use. Each takes events and the time and returns frozen
instructions, which a shell with sockets and processes carries out in their order; a `Record` is on disk before what follows it has
any effect. What holds of all three together is played through in `tests/simulation`, with messages that are lost, doubled, late
and out of order.

The rules that make a process run once, and a death count once:

1. A process has a key that is never used again (`<actor>.<incarnation>`).
2. A node's incarnation is accepted once. Once it is lost it is *fenced*: refused for ever, whoever brings it. A fenced node
   ends all its processes, and only when they are gone comes back with a higher incarnation.
3. Every order of the head has a number, rising over all of its restarts. A node obeys no order to start something that has a
   lower number than one it has seen: so it need not remember what once ran.
4. The node repeats that a process ended until the head confirms it; the head repeats an order until it is answered.
5. A node registers with all that it answers for, and obeys no order to start something from then until it was accepted: what it
   listed is what it has.
"""
