"""The nine tasks of the benchmark (section 3.4), in the column order of the paper's Table 2."""

from irgpt_lib.tasks.choice import RECOGNITION, SCENE
from irgpt_lib.tasks.counting import AERIAL_COUNTING, PEDESTRIAN_COUNTING
from irgpt_lib.tasks.grounding import GROUNDING
from irgpt_lib.tasks.location import LOCATION
from irgpt_lib.tasks.reid import REID
from irgpt_lib.tasks.relationship import RELATIONSHIP
from irgpt_lib.tasks.security import SECURITY
from irgpt_lib.tasks.task import Question, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        SCENE,
        RECOGNITION,
        GROUNDING,
        RELATIONSHIP,
        REID,
        SECURITY,
        LOCATION,
        AERIAL_COUNTING,
        PEDESTRIAN_COUNTING,
    )
}

__all__ = ["TASKS", "Question", "Task"]
