"""What `training.py` is made of.

* cells: what is trained, in which order, and the file of what is finished
* data: images and text, by path, in parts to train on, to choose by and to report
* nets: the networks, with their optimiser, rates and customary start
* starts: the starts that are compared
* trained: one training
* table: the table and the plot
"""
