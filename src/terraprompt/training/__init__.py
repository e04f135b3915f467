"""Training: crops and instructions from labelled images, the task schedule, the supervised trainer."""
