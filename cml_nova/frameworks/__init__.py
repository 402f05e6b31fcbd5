"""Launch contracts of the frameworks, as pure functions: role counts in, rank table and environments out."""

from cml_nova.frameworks.base import Framework, Layout, NodeSlot, Place, Task, TaskState, Verdict, get_framework

__all__ = ["Framework", "Layout", "NodeSlot", "Place", "Task", "TaskState", "Verdict", "get_framework"]
