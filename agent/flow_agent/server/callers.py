"""Who asks: the name on the token, what it may do, and which claims and agents are its own."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flow_agent.errors import ClaimLost
from flow_agent.model import AgentInfo, Claim, Registration, Run, State
from flow_agent.wire import Held

_OF = "~"
"""Between an agent's id and the name of its token, in the queue. No name of a token has it."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """One who asks. ``name`` is that of its tokens, so that a new token goes on where the old one was; ``key`` is what
    proofs are made with."""

    name: str
    key: bytes = field(repr=False)

    def proof(self, run_id: str, number: int, attempt: int) -> str:
        """What shows that this caller won this claim, for this attempt: the server keeps no list of them."""
        text = "\0".join((self.name, run_id, str(number), str(attempt)))
        return hmac.new(self.key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:32]

    def proves(self, held: Held) -> bool:
        """Whether the claim is one that this caller won."""
        right = self.proof(held.run_id, held.number, held.attempt)
        return hmac.compare_digest(right.encode(), held.proof.encode(errors="surrogatepass"))

    def given(self, claims: Sequence[Claim]) -> list[Claim]:
        """The claims with their proofs."""
        return [replace(claim, proof=self.proof(claim.run.id, claim.number, claim.attempt)) for claim in claims]

    def claim(self, held: Held) -> Claim:
        """The claim for a write under it.

        Raises ClaimLost: it is not this caller's.
        """
        if not self.proves(held):
            raise ClaimLost(
                f"claim {held.number} of run {held.run_id} was not won with a token of this name",
                hint="end what was started under this claim, and write nothing more for it",
            )
        return named(held)

    def own(self, agent: AgentInfo) -> AgentInfo:
        """The agent as the queue knows it: nobody can speak for an agent of another name's."""
        return replace(agent, id=f"{agent.id}{_OF}{self.name}") if self.name else agent


def named(held: Held) -> Claim:
    """A claim of which only what names it is known."""
    run = Run(id=held.run_id, flow="", version=0, state=State.CLAIMED)
    nothing = Registration(flow="", kind="", storage={}, location={})
    return Claim(run=run, registration=nothing, number=held.number, attempt=held.attempt, lease=0.0)


def shown(agent: AgentInfo) -> AgentInfo:
    """The agent as it calls itself."""
    return replace(agent, id=agent.id.rpartition(_OF)[0] or agent.id)
