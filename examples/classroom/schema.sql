CREATE TABLE teachers (
    id TEXT PRIMARY KEY NOT NULL,
    course TEXT NOT NULL DEFAULT '',
    user TEXT NOT NULL DEFAULT ''
);
CREATE TABLE grades (
    id TEXT PRIMARY KEY NOT NULL,
    course TEXT NOT NULL DEFAULT '',
    student TEXT NOT NULL DEFAULT '',
    grade INTEGER,
    answer TEXT
);
CREATE INDEX grades_course ON grades(course);
CREATE INDEX grades_student ON grades(student);
