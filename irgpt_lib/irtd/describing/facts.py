"""The describer of the embedded world: it looks at no image, since the facts of a simulated scene are known."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from irgpt_lib.irtd.describing.describer import Failure, Reply, Request, request_key
from irgpt_lib.irtd.record import Sample
from irgpt_lib.irtd.simulated.describe import describe

SIMULATED = "simulated"


@dataclass(frozen=True)
class DescribeFacts:
    """Describes simulated samples from their facts; a request's `name` is the id of one of `samples`.

    Its replies cost nothing and follow from the sample, so they need no journal.
    """

    samples: Mapping[str, Sample]

    def describe(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """One reply for each request, in order; a failure where the sample is unknown, is not simulated or its kind has
        no caption form."""
        for request in requests:
            key = request_key(SIMULATED, {}, request)
            sample = self.samples.get(request.name)
            if sample is None or sample.source != SIMULATED:
                why = "no such sample" if sample is None else f"a sample of {sample.source}"
                yield Failure(request.name, key, "no known facts", why)
                continue
            try:
                yield Reply(request.name, key, describe(sample), SIMULATED)
            except ValueError as error:
                yield Failure(request.name, key, "no caption form", str(error))
