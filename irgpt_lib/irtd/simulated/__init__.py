"""The embedded world: one physical description of a scene, rendered as visible, NIR, SWIR and TIR images.

Everything it makes is simulated and says so (`source: simulated`, `authentic: false`). It stands in for the raw
datasets where none can be downloaded; it is no substitute for them.
"""
